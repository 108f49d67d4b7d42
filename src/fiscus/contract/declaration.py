"""What a declaration says: accounts, budgets, allocations and templates as they should be, and what is wrong with one.

Everything is checked before anything is done, and each fault names the path of the field; of a file also the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import UNSET

from fiscus.contract.errors import ConfigurationInvalid
from fiscus.core.checks import check_allocate, check_budget, check_put_account, check_put_template
from fiscus.core.commands import (
    CHAIN_LENGTH_MAX,
    Allocate,
    ExhaustionPolicy,
    GrantStrategy,
    PutAccount,
    PutTemplate,
    ShortageStep,
    TemplateBudget,
)
from fiscus.core.outcomes import Refused
from fiscus.core.units import Amounts, Unit
from fiscus.core.windows import parse_period

FAULTS_SHOWN_MAX = 20

FieldPath = tuple[str | int, ...]
"""Where something stands in the file: ``("accounts", 0, "budgets", 1, "limit")``."""


class DeclaredAllocation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An allocation with more to say than its size; fields as in the command ``allocate``.

    One that ends at a time is an order, not a state: give it with ``fiscus budgets allocate --until``.
    """

    to: int
    on_exhaustion: ExhaustionPolicy = "deny"


class DeclaredAccount(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An account as it should be.

    Attributes:
        parent: declared in the same file, or in the ledger already; None for a root.
        priority, min_reserve, labels, status, confidence_threshold, gate_s, shortage, grant_strategy: what is left out
            is left alone.
        budgets, allocations: when given they are all that the account has, and others are removed; when left out they
            are left alone.
    """

    account: str
    parent: str | None = None
    priority: int | None = None
    min_reserve: Amounts | None = None
    confidence_threshold: float | None = None
    gate_s: int | None = None
    shortage: tuple[ShortageStep, ...] | None = None
    grant_strategy: GrantStrategy | None = None
    labels: dict[str, str] | None = None
    status: Literal["active", "suspended"] | None = None
    budgets: tuple[TemplateBudget, ...] | None = None
    allocations: dict[Unit, int | DeclaredAllocation] | None = None


class Declaration(msgspec.Struct, frozen=True, kw_only=True):
    """A whole file, free of faults in itself. ``origin`` says where its parts stand."""

    accounts: tuple[DeclaredAccount, ...]
    templates: tuple[PutTemplate, ...]
    origin: Origin


class Origin:
    """The file that a declaration comes from, and the lines of its fields."""

    def __init__(self, name: str, lines: dict[FieldPath, int]) -> None:
        self.name = name
        self._lines = lines

    def place(self, path: FieldPath) -> str:
        """``budgets.toml:12: accounts[0].budgets[1].limit``; the line of the nearest field around it that has one."""
        around = path
        while around and around not in self._lines:
            around = around[:-1]
        line = self._lines.get(around)
        where = f"{self.name}:{line}" if line else self.name
        return ": ".join(filter(None, (where, path_text(path))))


class Faults:
    """What is wrong with a file, collected, so that all of it is told at once."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self._found: list[str] = []
        self._first: FieldPath = ()

    def add(self, path: FieldPath, message: str) -> None:
        """Note one fault."""
        self._first = self._first if self._found else path
        self._found.append(f"{self.origin.place(path)}: {message}")

    def note(self, path: FieldPath, wrong: Refused | None) -> None:
        """Note what the ledger would refuse, if it would; ``path`` is that of the refused part."""
        if wrong is not None:
            field = wrong.field or ""
            self.add((*path, *_parts(f".{field}" if field else "")), wrong.detail.removeprefix(f"{field}: "))

    def check(self) -> None:
        """Do nothing when there are none.

        Raises:
            ConfigurationInvalid: there are; one line each, at most ``FAULTS_SHOWN_MAX``.
        """
        if not self._found:
            return
        more = len(self._found) - FAULTS_SHOWN_MAX
        shown = self._found[:FAULTS_SHOWN_MAX] + ([f"and {more} more"] if more > 0 else [])
        raise ConfigurationInvalid("\n".join(shown), field=path_text(self._first))


def check_declaration(data: Any, origin: Origin) -> Declaration:
    """Turn parsed data into a declaration.

    Raises:
        ConfigurationInvalid: it has faults.
    """
    faults = Faults(origin)
    if not isinstance(data, dict):
        raise ConfigurationInvalid(f"{origin.place(())}: a declaration is a table with accounts and templates")
    for name in data.keys() - {"accounts", "templates"}:
        faults.add((str(name),), "unknown field; a declaration has accounts and templates")
    accounts = list(_converted(data, "accounts", DeclaredAccount, faults))
    templates = list(_converted(data, "templates", PutTemplate, faults))
    return declare(accounts, templates, faults)


def declare(
    accounts: Sequence[tuple[int, DeclaredAccount]], templates: Sequence[tuple[int, PutTemplate]], faults: Faults
) -> Declaration:
    """A declaration of these accounts and templates, each with its place.

    Raises:
        ConfigurationInvalid: it has faults, with those that were noted before.
    """
    for index, account in accounts:
        _check_account(account, ("accounts", index), faults)
    for index, template in templates:
        faults.note(("templates", index), check_put_template(template))
    _check_once([(index, account.account) for index, account in accounts], "accounts", "account", faults)
    _check_once([(index, template.pattern) for index, template in templates], "templates", "pattern", faults)
    check_tree({account.account: account.parent for _, account in accounts}, accounts, faults)
    faults.check()
    return Declaration(
        accounts=tuple(account for _, account in accounts),
        templates=tuple(template for _, template in templates),
        origin=faults.origin,
    )


def check_tree(parents: dict[str, str | None], accounts: Iterable[tuple[int, DeclaredAccount]], faults: Faults) -> None:
    """Note every declared account whose chain ends in a cycle or is too long.

    Args:
        parents: account → parent, as declared and as far as known from the ledger; unknown ones end a chain.
        accounts: the declared ones with their places in the file.
        faults: where to note them.
    """
    for index, account in accounts:
        chain = [account.account]
        while (parent := parents.get(chain[-1])) is not None:
            if parent in chain:
                circle = " → ".join([*chain[chain.index(parent) :], parent])
                if parent == account.account:
                    faults.add(("accounts", index, "parent"), f"a cycle: {circle}")
                break
            chain.append(parent)
        if len(chain) > CHAIN_LENGTH_MAX:
            faults.add(
                ("accounts", index, "parent"),
                f"the chain of {account.account} has {len(chain)} accounts; at most {CHAIN_LENGTH_MAX} are allowed",
            )


def put_account(account: DeclaredAccount) -> PutAccount:
    """The command that opens a declared account, or changes it."""
    return PutAccount(
        account=account.account,
        parent=account.parent,
        labels=account.labels,
        priority=account.priority,
        min_reserve=account.min_reserve,
        confidence_threshold=UNSET if account.confidence_threshold is None else account.confidence_threshold,
        gate_s=UNSET if account.gate_s is None else account.gate_s,
        shortage=account.shortage,
        grant_strategy=UNSET if account.grant_strategy is None else account.grant_strategy,
    )


def allocate(account: str, unit: Unit, size: int | DeclaredAllocation) -> Allocate:
    """The command that carves a declared allocation."""
    if isinstance(size, int):
        return Allocate(account=account, unit=unit, to=size)
    return Allocate(account=account, unit=unit, to=size.to, on_exhaustion=size.on_exhaustion)


def budget_name(budget: TemplateBudget) -> str:
    """The name of a budget, given or by default."""
    return budget.budget or f"{budget.unit}-{parse_period(budget.period).text}"


def path_text(path: FieldPath) -> str:
    """``accounts[0].budgets[1].limit``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def field_path(text: str) -> FieldPath:
    """What ``path_text`` has written, as a path again."""
    return _parts(f".{text}")


# -- one account, one template ------------------------------------------------------------------------------------

T = TypeVar("T", bound=msgspec.Struct)

_PLACE = re.compile(r" - at `\$(.*)`$")
_PART = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
_UNKNOWN = re.compile(r"unknown field `([^`]*)`|missing required field `([^`]*)`")


def _converted(data: dict[str, Any], field: str, kind: type[T], faults: Faults) -> Iterator[tuple[int, T]]:
    """Convert each item of a list by itself, so that a fault in one does not hide those of the others."""
    items = data.get(field, [])
    if not isinstance(items, list):
        faults.add((field,), "this is a list of tables")
        return
    for index, item in enumerate(items):
        try:
            yield index, msgspec.convert(item, kind, str_keys=True)
        except msgspec.ValidationError as invalid:
            message = str(invalid)
            faults.add((field, index, *_place(message)), _PLACE.sub("", message))


def _place(message: str) -> FieldPath:
    """The path of the field in an error of msgspec."""
    found = _PLACE.search(message)
    path = _parts(found[1]) if found else ()
    named = _UNKNOWN.search(message)
    return (*path, named[1] or named[2]) if named else path


def _parts(text: str) -> FieldPath:
    """``.budgets[1].limit`` as a path; a key that msgspec does not name (``[...]``) is left out."""
    return tuple(name or int(index) for name, index in _PART.findall(text))


def _check_account(account: DeclaredAccount, path: FieldPath, faults: Faults) -> None:
    """Note what the ledger would not accept in one account."""
    faults.note(path, check_put_account(put_account(account)))
    for unit, size in (account.allocations or {}).items():
        at = (*path, "allocations", unit)
        faults.note(at, check_allocate(allocate(account.account, unit, size)))
        if account.parent is None:
            faults.add(at, "a root has nothing above it to allocate from")
    names: set[str] = set()
    for index, budget in enumerate(account.budgets or ()):
        at = (*path, "budgets", index)
        wrong = check_budget(budget)
        faults.note(at, wrong)
        name = budget.budget or "" if wrong else budget_name(budget)
        if name and name in names:
            faults.add((*at, "budget"), f"there are two budgets named {name}; give one of them another name")
        names.add(name)


def _check_once(names: Sequence[tuple[int, str]], field: str, key: str, faults: Faults) -> None:
    """Note names that are declared twice."""
    first: dict[str, int] = {}
    for index, name in names:
        if name in first:
            faults.add((field, index, key), f"{name} is declared twice, first as {field}[{first[name]}]")
        first.setdefault(name, index)
