"""The health check of the container: asks the service in it for /health. Exit code 0: healthy; 1: not, and why.

It reads the same variables as the service, needs no key and nothing but the standard library.
"""

import http.client
import os
import ssl
import sys

TIMEOUT_S = 8
WILDCARDS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  (recognised here, never bound to)


def check() -> str | None:
    """Ask once; returns what is wrong, None when nothing is."""
    host = os.environ.get("FISCUS_HOST", "")
    address = WILDCARDS.get(host, host)
    port = int(os.environ.get("FISCUS_PORT") or os.environ.get("TOKEN_ECONOMY_PORT") or 8091)
    connection: http.client.HTTPConnection
    if os.environ.get("FISCUS_TLS_CERTIFICATE_PATH"):
        own = ssl._create_unverified_context()  # noqa: S323  (its own certificate names the service, not the loopback)
        connection = http.client.HTTPSConnection(address, port, timeout=TIMEOUT_S, context=own)
    else:
        connection = http.client.HTTPConnection(address, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        answer = connection.getresponse()
        return None if answer.status == 200 else f"{answer.status} {answer.read(500).decode(errors='replace')}"
    except (OSError, http.client.HTTPException) as error:
        return f"{address}, port {port}: {error}"
    finally:
        connection.close()


if __name__ == "__main__":
    fault = check()
    if fault is not None:
        sys.exit(fault)
