"""``fiscus plan`` and ``fiscus apply``: accounts, budgets, allocations and templates from a file."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec

from fiscus.cli.connection import Connection, connected, has_ledger
from fiscus.cli.declaration import read_declaration
from fiscus.cli.invocation import Invocation
from fiscus.cli.output import progress, write_json, write_line
from fiscus.cli.plan import step_text, summary
from fiscus.contract.declaration import Declaration
from fiscus.contract.errors import Refusal, refusal
from fiscus.contract.queries import AccountView, ListTemplates, ReadAccount, TemplatesView
from fiscus.core.commands import CHAIN_LENGTH_MAX, COMPOUND_LENGTH_MAX, Compound
from fiscus.core.outcomes import AccountAnswer, CompoundAnswer, Refused
from fiscus.policy.plan import Known, Step, make_plan

EXIT_DIFFERENT = 2
"""Exit code of ``plan`` when there is something to do, as other tools that plan have it."""

READS_AT_ONCE = 16


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The last line of ``plan --json`` and ``apply --json``."""

    add: int
    change: int
    remove: int
    applied: bool


async def plan_file(invocation: Invocation, file: Path, *, force: bool) -> int:
    """Show what ``apply`` would do.

    Returns:
        0 when there is nothing to do, else ``EXIT_DIFFERENT``.
    """
    declaration = read_declaration(file)
    steps = make_plan(declaration, await _known_before(invocation, declaration), force=force)
    _write(invocation, steps, applied=False)
    return EXIT_DIFFERENT if steps else 0


async def apply_file(invocation: Invocation, file: Path, *, force: bool) -> int:
    """Make the ledger as the file says; what agrees already is not touched, so that a second time changes nothing.

    Up to 1,000 steps are done as one, all or none; more in parts of 1,000.
    """
    declaration = read_declaration(file)
    make_plan(
        declaration, await _known_before(invocation, declaration), force=force
    )  # no ledger is made for a faulty file
    async with connected(invocation, creates=True) as connection:
        steps = make_plan(declaration, await read_known(connection, declaration), force=force)
        await _apply(connection, declaration, steps)
    _write(invocation, steps, applied=True)
    return 0


async def _known_before(invocation: Invocation, declaration: Declaration) -> Known:
    """What the ledger has; nothing when there is none yet."""
    if not has_ledger(invocation.settings()):
        return Known(accounts={}, templates={})
    async with connected(invocation) as connection:
        return await read_known(connection, declaration)


async def read_known(connection: Connection, declaration: Declaration) -> Known:
    """What the ledger has of a declaration: its accounts, all above them and above its parents, the templates."""
    accounts: dict[str, AccountAnswer] = {}
    absent: set[str] = set()
    wanted = {account.account for account in declaration.accounts}
    wanted |= {account.parent for account in declaration.accounts if account.parent is not None}
    wanted |= {template.parent for template in declaration.templates if template.parent is not None}
    total = len(wanted)
    with progress("reading accounts") as tell:
        for _ in range(CHAIN_LENGTH_MAX + 1):
            missing = sorted(wanted - accounts.keys() - absent)
            for start in range(0, len(missing), READS_AT_ONCE):
                names = missing[start : start + READS_AT_ONCE]
                found = await asyncio.gather(*(_read_account(connection, name) for name in names))
                for name, account in zip(names, found, strict=True):
                    if account is None:
                        absent.add(name)
                    else:
                        accounts[name] = account
                tell(len(accounts) + len(absent), total)
            wanted = {account.parent for account in accounts.values() if account.parent is not None}
    templates = await connection.read(TemplatesView, ListTemplates(tenant=connection.tenant))
    return Known(accounts=accounts, templates={template.pattern: template for template in templates.templates})


async def _read_account(connection: Connection, name: str) -> AccountAnswer | None:
    """An account, or None if there is none."""
    view = await connection.treasury.read(ReadAccount(tenant=connection.tenant, account=name))
    if isinstance(view, Refused):
        if view.code == "unknown_account":
            return None
        raise refusal(view)
    assert isinstance(view, AccountView)
    return view.account


async def _apply(connection: Connection, declaration: Declaration, steps: Sequence[Step]) -> None:
    """Do the steps, at most 1,000 as one.

    Raises:
        Refusal: the ledger said no to a step; names the file, line and field that it comes from.
    """
    with progress("applying") as tell:
        for start in range(0, len(steps), COMPOUND_LENGTH_MAX):
            part = steps[start : start + COMPOUND_LENGTH_MAX]
            try:
                await connection.ask(CompoundAnswer, Compound(commands=tuple(step.command for step in part)))
            except Refusal as error:
                raise _placed(error.refused, declaration, part, start, len(steps)) from error
            tell(start + len(part), len(steps))


def _placed(refused: Refused, declaration: Declaration, part: Sequence[Step], done: int, total: int) -> Refusal:
    """The refusal of a compound with the place in the file that it comes from."""
    place = declaration.origin.place(part[refused.index].path if refused.index is not None else ())
    state = f"; {done} of {total} steps are done, apply again to go on" if done else "; nothing was done"
    return refusal(msgspec.structs.replace(refused, detail=f"{place}: {refused.detail}{state}"))


def _write(invocation: Invocation, steps: Sequence[Step], *, applied: bool) -> None:
    """Write the steps, then what they come to."""
    if invocation.json:
        for step in steps:
            write_json(step)
        counts = {action: sum(step.action == action for step in steps) for action in ("add", "change", "remove")}
        write_json(Summary(**counts, applied=applied))
        return
    for step in steps:
        write_line(step_text(step))
    if not steps:
        write_line("nothing to do: the ledger is as declared")
    else:
        write_line(f"applied: {summary(steps, done=True)}" if applied else summary(steps))
