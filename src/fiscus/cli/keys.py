"""``fiscus keys``: who may call a service."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from fiscus.cli.connection import Connection, connected
from fiscus.cli.invocation import Invocation, command
from fiscus.cli.output import time_text, write_line, write_note
from fiscus.cli.times import Until, in_utc
from fiscus.contract.errors import Unknown
from fiscus.contract.queries import KeysView, ListKeys
from fiscus.core.commands import PutKey, RevokeKey, Role
from fiscus.core.outcomes import KeyAnswer, Refused

keys = typer.Typer(help="Keys by which callers of a service are known.", no_args_is_help=True)

Key = Annotated[str, typer.Argument(help="Public id of the key.", metavar="KEY")]
COLUMNS = ("key", "role", "account", "opens accounts", "expires", "requests/min>", "label")


class Issued(msgspec.Struct, frozen=True, kw_only=True):
    """A key with its secret, which is shown this once."""

    key: KeyAnswer
    secret: str


@command(keys, "create")
async def create_key(
    invocation: Invocation,
    role: Annotated[Role, typer.Option(help="What it may do.")],
    account: Annotated[
        str | None, typer.Option(help="For the role account: the account that it is bound to, with all below.")
    ] = None,
    may_open: Annotated[bool, typer.Option("--may-open", help="It may open accounts from templates.")] = False,
    until: Until = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Its own rate.")] = None,
    label: Annotated[str, typer.Option(help="What it is for.")] = "",
) -> None:
    """Make a key. Its secret is shown this once."""
    fields = {
        "role": role,
        "account": account,
        "may_open": may_open,
        "expires_at": in_utc(until),
        "requests_per_minute": requests_per_minute,
        "label": label,
    }
    async with connected(invocation, creates=True) as connection:
        if connection.address is not None:
            issued = await connection.post("/v1/keys", fields, Issued)
        else:
            from fiscus.api.keys import make_key_id

            issued = await _store(connection, make_key_id(), fields)
    _write_issued(invocation, issued)


@command(keys, "rotate")
async def rotate_key(invocation: Invocation, key: Key) -> None:
    """Give a key a new secret, shown this once. The old one ends at once."""
    async with connected(invocation) as connection:
        if connection.address is not None:
            from urllib.parse import quote

            issued = await connection.post(f"/v1/keys/{quote(key, safe='')}/rotate", {}, Issued)
        else:
            found = await _find(connection, key)
            fields = {name: getattr(found, name) for name in KEPT}
            issued = await _store(connection, key, fields)
    _write_issued(invocation, issued)


@command(keys, "list")
async def list_keys(invocation: Invocation) -> None:
    """List the keys that are not revoked. Nothing here is secret."""
    async with connected(invocation) as connection:
        view = await connection.read(KeysView, ListKeys(tenant=connection.tenant))
    rows = (
        (
            key.key,
            key.role,
            key.account or "",
            "yes" if key.may_open else "",
            time_text(key.expires_at),
            str(key.requests_per_minute or ""),
            key.label,
        )
        for key in view.keys
    )
    invocation.output.rows(view.keys, COLUMNS, rows)


@command(keys, "revoke")
async def revoke_key(invocation: Invocation, key: Key) -> None:
    """Make a key useless from now on."""
    async with connected(invocation) as connection:
        answer = await connection.ask(KeyAnswer, RevokeKey(key=key))
    invocation.output.answer(answer, f"{answer.key}: revoked")


KEPT = ("role", "account", "may_open", "expires_at", "requests_per_minute", "label")
"""What a key keeps when its secret changes."""


async def _store(connection: Connection, key: str, fields: dict[str, Any]) -> Issued:
    """Make a secret and store its keyed hash in the ledger that is open in this process."""
    from fiscus.api.keys import digest_of, make_secret
    from fiscus.app import read_pepper
    from fiscus.cli.options import ledger_options

    secret = make_secret()
    digest = digest_of(secret, read_pepper(ledger_options(connection.settings)))
    return Issued(key=await connection.ask(KeyAnswer, PutKey(key=key, digest=digest, **fields)), secret=secret)


async def _find(connection: Connection, key: str) -> KeyAnswer:
    """The key with this public id.

    Raises:
        Unknown: there is none.
    """
    view = await connection.read(KeysView, ListKeys(tenant=connection.tenant))
    for found in view.keys:
        if found.key == key:
            return found
    raise Unknown(Refused(code="unknown_key", detail=f"there is no key {key}", field="key"))


def _write_issued(invocation: Invocation, issued: Issued) -> None:
    """Show a secret, this once."""
    if invocation.json:
        invocation.output.answer(issued, "")
        return
    bound = f" of {issued.key.account}" if issued.key.account else ""
    write_line(f"{issued.key.key}: {issued.key.role}{bound}")
    write_line(issued.secret)
    write_note(
        "This secret is shown once; keep it now. A service that runs without keys asks for one from now on, if this is "
        "an administrator's."
    )
