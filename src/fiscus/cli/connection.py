"""How a command reaches a ledger: at a service, or in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from fiscus.cli.invocation import Invocation
from fiscus.cli.logs import configure_logging
from fiscus.cli.output import progress
from fiscus.contract.analysis import AnalysisQuery
from fiscus.contract.errors import BudgetUnavailable, ConfigurationInvalid, LedgerBusy, TreasuryError, refusal
from fiscus.contract.queries import (
    AccountsPage,
    AnyQuery,
    ListAccounts,
    ListQuery,
    ListTemplates,
    TemplatesView,
    View,
)
from fiscus.contract.treasury import Treasury
from fiscus.core.commands import AnyCommand, Request
from fiscus.core.outcomes import AnyOutcome, Refused

if TYPE_CHECKING:  # not imported before it is needed: `fiscus --help` is fast
    from fiscus.settings import Settings
    from fiscus.treasury.local import LocalTreasury

TENANT_OF_SERVICE = "default"
"""A service has one tenant, which its clients call so."""

TIMEOUT_S = 10.0
ATTEMPTS_MAX = 5
WORK_S_MAX = 600.0

A = TypeVar("A", bound=AnyOutcome)
V = TypeVar("V", bound=View)
B = TypeVar("B", bound=msgspec.Struct)


class Connection:
    """A treasury, and where it is.

    Attributes:
        treasury: the interface of the ledger.
        settings: what is set, the options of the command included.
        tenant: whom commands concern.
        address: of the service that is asked; None: the ledger is open in this process.
        local: the same treasury, when the ledger is open in this process.
    """

    def __init__(
        self, treasury: Treasury, settings: Settings, *, address: str | None = None, local: LocalTreasury | None = None
    ) -> None:
        self.treasury = treasury
        self.settings = settings
        self.tenant = settings.tenant if address is None else TENANT_OF_SERVICE
        self.address = address
        self.local = local

    @property
    def place(self) -> str:
        """Address of the service, or the ledger's URL when it is open in this process."""
        return self.address or self.settings.store_url

    async def ask(self, kind: type[A], wish: AnyCommand) -> A:
        """Have a command decided.

        Raises:
            Refusal: the ledger said no.
            TreasuryError: it could not be asked.
        """
        outcome = await self.treasury.execute(Request(command=wish, tenant=self.tenant, actor="cli"))
        if isinstance(outcome, Refused):
            raise refusal(outcome)
        assert isinstance(outcome, kind)
        return outcome

    async def post(self, path: str, body: dict[str, Any], kind: type[B]) -> B:
        """Ask the service for what is not a command of the ledger.

        Raises:
            Refusal: it said no.
            TreasuryError: it could not be asked.
        """
        return await self._call(path, body, kind)

    async def get(self, path: str, kind: type[B]) -> B:
        """Read from the service what is not a query of the ledger; raises as ``post`` does."""
        return await self._call(path, None, kind)

    async def send(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        """Send a request to the service, with the key and as JSON; status and body of the answer.

        Raises:
            TreasuryError: it could not be asked.
        """
        status, answer, _ = await self._send(method, path, body, headers)
        return status, answer

    async def _call(self, path: str, body: dict[str, Any] | None, kind: type[B]) -> B:
        from fiscus.client.problems import decode_problem

        method, data = ("GET", b"") if body is None else ("POST", msgspec.json.encode(body))
        status, answer, retry_after = await self._send(method, path, data, {})
        if status < 300:
            try:
                return msgspec.json.decode(answer, type=kind)
            except msgspec.DecodeError as error:
                raise TreasuryError(f"{self.address}: {error}") from error
        failure = decode_problem(status, answer, retry_after)
        raise refusal(failure) if isinstance(failure, Refused) else failure

    async def _send(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, bytes, str | None]:
        import aiohttp

        from fiscus.client.sessions import unreachable

        assert self.address is not None, "only a service can be asked"
        key = api_key(self.settings)
        headers = {**headers, "Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        timeout = aiohttp.ClientTimeout(total=WORK_S_MAX)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session:
                url = self.address.rstrip("/") + path
                async with session.request(method, url, data=body or None, headers=headers) as response:
                    return response.status, await response.read(), response.headers.get("Retry-After")
        except (aiohttp.ClientError, OSError) as error:
            raise TreasuryError(f"{self.address}: {unreachable(error)}") from error

    async def read(self, kind: type[V], query: AnyQuery) -> V:
        """Have a query answered; lists and sums of a service as of now, which may follow its journal by a moment.

        Raises:
            Refusal: there is no such thing, or the key may not see it.
            TreasuryError: nobody could be asked.
        """
        if self.local is None and isinstance(query, ListQuery | AnalysisQuery) and not query.min_seq:
            with suppress(TreasuryError):  # that is asked once, without repeats: rather what is known than nothing
                ready = await self.treasury.readiness()
                query = msgspec.structs.replace(query, min_seq=ready.head_seq if ready.ready else 0)
        view = await self.treasury.read(query)
        if isinstance(view, Refused):
            raise refusal(view)
        assert isinstance(view, kind)
        return view


@asynccontextmanager
async def connected(invocation: Invocation, *, creates: bool = False) -> AsyncIterator[Connection]:
    """Reach the ledger of an invocation.

    With ``--url`` (or the setting) that is a service. Otherwise the ledger is opened in this process, unless a service
    has it open: then that service is asked.

    Args:
        invocation: the global options.
        creates: whether a ledger that does not exist yet is made.

    Raises:
        ConfigurationInvalid: there is no such ledger.
        LedgerBusy: another process has it open that serves nobody.
        TreasuryError: the service cannot be reached.
    """
    settings = invocation.settings()
    configure_logging("warning", settings.log_format)
    async with AsyncExitStack() as stack:
        address = settings.url
        if address is None:
            from fiscus.app import open_treasury
            from fiscus.cli.options import ledger_options

            require_ledger(settings, creates=creates)
            try:
                local = await stack.enter_async_context(open_treasury(ledger_options(settings)))
            except LedgerBusy as busy:
                if busy.address is None:
                    raise
                address = busy.address
            else:
                connection = Connection(local, settings, local=local)
                await _caught_up(connection)
                yield connection
                return
        if invocation.tenant not in {None, TENANT_OF_SERVICE}:
            raise ConfigurationInvalid(f"{address} serves one tenant; ask it without --tenant")
        from fiscus.client import RemoteTreasury

        remote = RemoteTreasury(address, api_key(settings), timeout_s=TIMEOUT_S, attempts_max=ATTEMPTS_MAX)
        stack.push_async_callback(remote.close)
        yield Connection(remote, settings, address=address)


async def _caught_up(connection: Connection) -> None:
    """Wait for the views of a ledger that was just opened: they may be missing and have to be made again.

    Raises:
        TreasuryError: the ledger cannot be read.
    """
    head = (await connection.read(TemplatesView, ListTemplates(tenant=connection.tenant))).as_of_seq
    with progress("bringing the views up to date") as tell:
        reached = -1
        while True:
            try:
                await connection.read(AccountsPage, ListAccounts(tenant=connection.tenant, limit=1, min_seq=head))
            except BudgetUnavailable:
                readiness = await connection.treasury.readiness()
                if not readiness.ready or readiness.followers_seq == reached:
                    raise
                reached = readiness.followers_seq
                tell(reached, head)
            else:
                return


def api_key(settings: Settings) -> str | None:
    """The secret that is sent to a service."""
    return settings.api_key.get_secret_value() if settings.api_key else None


def has_ledger(settings: Settings) -> bool:
    """Whether there is something to ask: a service that was named, a database, or the file of a ledger."""
    from fiscus.stores import POSTGRES_SCHEMES

    if settings.url is not None or settings.store_url.startswith(POSTGRES_SCHEMES):
        return True
    from fiscus.app import ledger_path

    path = ledger_path(settings.store_url)
    return path is not None and path.exists()


def require_ledger(settings: Settings, *, creates: bool) -> None:
    """See to it that a command which only reads makes no ledger.

    Raises:
        ConfigurationInvalid: there is none where the settings say.
    """
    if not creates and not has_ledger(settings):
        raise ConfigurationInvalid(
            f"there is no ledger at {settings.store_url}; name one with --store, a service with --url, or start with "
            "`fiscus serve` or `fiscus apply`"
        )
