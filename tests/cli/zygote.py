"""A process that has everything of the command line imported, and forks for each command.

So each command is a process of its own, with its own folder, environment and exit code, without the second that the
imports take. Orders come by a socket, whose descriptor is the argument, a JSON object each: to begin a command, with
its standard output and error beside it, which is answered with its process id; or to say which exit code one had.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import signal
import socket
import sys
import threading

import fiscus.cli

PACKAGES = (
    "fiscus.cli",
    "fiscus.alerts",
    "fiscus.api",
    "fiscus.client",
    "fiscus.gateway",
    "fiscus.sdk",
    "fiscus.stores",
    "fiscus.treasury",
)

ORDER_BYTES_MAX = 1 << 20


def prepare() -> None:
    """Import what commands import when they run."""
    for name in PACKAGES:
        package = importlib.import_module(name)
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not found.name.endswith("__main__") and ".migrations." not in found.name:
                importlib.import_module(found.name)
    importlib.import_module("fiscus.app")
    assert threading.active_count() == 1, "who has threads must not fork"
    gc.collect()
    gc.freeze()  # what all commands share is neither looked through nor copied by each of them


def become(order: dict[str, object], outputs: list[int]) -> None:
    """Be the process of a command, as if it had been started in its folder."""
    os.chdir(str(order["folder"]))
    os.environ.clear()
    os.environ.update(order["environment"])  # type: ignore[call-overload]  # texts, as they were written
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, opened in enumerate((nothing, *outputs)):
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.argv = ["fiscus", *order["arguments"]]  # type: ignore[misc]  # likewise
    fiscus.cli.main()


def main() -> None:
    """Take orders until there are no more; what still runs then has been left behind, and ends too."""
    prepare()
    begun: set[int] = set()
    with socket.socket(fileno=int(sys.argv[1])) as orders:
        orders.send(b"ready")
        while (received := socket.recv_fds(orders, ORDER_BYTES_MAX, 2))[0]:
            order, outputs = json.loads(received[0]), received[1]
            if "ended" in order:
                begun.remove(order["ended"])
                _, status = os.waitpid(order["ended"], 0)
                orders.send(b"%d" % os.waitstatus_to_exitcode(status))
                continue
            command = os.fork()
            if not command:
                orders.close()
                become(order, outputs)
                return
            for output in outputs:
                os.close(output)
            begun.add(command)
            orders.send(b"%d" % command)
    for command in begun:
        os.kill(command, signal.SIGKILL)


if __name__ == "__main__":
    main()
