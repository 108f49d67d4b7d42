"""The gateway as an ASGI application: who calls, what it may cost, a hold, then the call itself."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from fiscus.contract.errors import Invalid, TreasuryError
from fiscus.contract.logs import get_logger
from fiscus.contract.treasury import Treasury
from fiscus.core.outcomes import Refused
from fiscus.core.records import TEXT_LENGTH_MAX
from fiscus.core.units import Amounts
from fiscus.dialects import DIALECTS, Change, Code, Dialect, Malformed, Problem, RequestFacts
from fiscus.dialects.completions import OUTPUT_TOKENS_DEFAULT
from fiscus.gateway.admission import LEASE_S, Admitted, Asking, admit, release, wish
from fiscus.gateway.apart import ApartFailed
from fiscus.gateway.asgi import Headers, Message, Receive, Send, send_refusal
from fiscus.gateway.bodies import Body, read_body
from fiscus.gateway.bounds import bound_of, is_unseen
from fiscus.gateway.call import Call
from fiscus.gateway.downgrade import REFUSED, first_affordable
from fiscus.gateway.lengths import Expected, Lengths
from fiscus.gateway.live import Live
from fiscus.gateway.metrics import GatewayCollector, GatewayMetrics
from fiscus.gateway.notes import Note, Notes
from fiscus.gateway.options import GatewayOptions
from fiscus.gateway.order import Incoming, Order, Tools
from fiscus.gateway.payers import Caller, Payer, Payers, Unnamed, secret_of, wraps_up
from fiscus.gateway.produced import Shares
from fiscus.gateway.query import passed_query
from fiscus.gateway.reading import Reader
from fiscus.gateway.remaining import Remaining, within
from fiscus.gateway.routes import Route, family_at, route_at
from fiscus.gateway.settlements import Settlements
from fiscus.gateway.unmetered import pass_list, pass_unmetered
from fiscus.gateway.upstreams import Target, Upstreams
from fiscus.gateway.waiting import admit_later
from fiscus.pricing import Count, Price, PriceBook, UnknownPrice, count
from fiscus.pricing.own_prices import OwnPrices

log = get_logger(__name__)

USUAL_MODEL = "gpt-4o"
"""Whose price and vocabulary are loaded beforehand; looking one up loads the whole price book."""

CODES: Mapping[str, Code] = {
    "budget_exceeded": "budget_exceeded",
    "budget_busy": "budget_busy",
    "account_suspended": "forbidden",
    "account_terminated": "forbidden",
    "account_closed": "forbidden",
    "gated": "forbidden",
    "forbidden": "forbidden",
    "too_many_accounts": "budget_busy",
}
"""Code of a refusal of the ledger → code in the dialect; the rest is ``invalid``."""


Admit = Callable[[bytes | None], Awaitable[Caller | Problem]]
"""The caller behind a secret (None: there is none), or why it may not call."""


class Gateway:
    """See the package. Belongs to the event loop in which it is first called; ``close`` it."""

    def __init__(self, treasury: Treasury, options: GatewayOptions, *, tenant: str = "default") -> None:
        """Make a gateway over a treasury, which stays its maker's to close.

        Raises:
            Invalid: a price makes no sense; names the field.
        """
        self._options = options
        self._tenant = tenant
        self._remaining = Remaining(treasury, tenant, kept=options.wrap_up)
        self.live = Live(self._names_above)
        self.metrics = GatewayMetrics(upstream.name for upstream in options.upstreams)
        self._tools = Tools(
            settlements=Settlements(treasury),
            options=options,
            prices=PriceBook(options.prices, unknown_policy=options.unknown_price),
            upstreams=Upstreams(options),
            reader=Reader(),
            lengths=Lengths(),
            shares=Shares(),
            live=self.live,
            metrics=self.metrics,
        )
        self._own_prices = OwnPrices(treasury, tenant, self._tools.prices, options.prices)
        self._notes = Notes()
        self._payers = Payers(options.account)

    async def warm_up(self) -> None:
        """Load prices and the usual vocabulary beside the event loop: the first call would keep all others waiting."""
        await asyncio.to_thread(self._load)

    def _load(self) -> None:
        self._tools.prices.price_of(None, USUAL_MODEL, datetime.now(UTC))
        count(USUAL_MODEL, [{"role": "user", "content": "hello"}])

    def collector(self) -> GatewayCollector:
        """What shows its metrics."""
        return GatewayCollector(self.metrics, self._tools.upstreams.all)

    def takes(self, path: bytes) -> bool:
        """Whether an address is the gateway's."""
        return family_at(path) is not None

    async def close(self) -> None:
        """Let go of connections and processes."""
        self._tools.reader.close()
        await self._tools.settlements.close()
        await self.live.close()
        await self._remaining.close()
        await self._tools.upstreams.close()

    async def _names_above(self, account: str) -> list[str]:
        return [above.account for above in await self._remaining.chain(account)]

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send, admit_key: Admit) -> None:
        """Answer one request at an address that it takes."""
        raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
        family = family_at(raw_path)
        assert family is not None
        route = route_at(scope["method"], raw_path, family)
        dialect = DIALECTS[route.dialect]
        problem = await self._answer(scope, receive, send, admit_key, route, dialect)
        if problem is not None:
            self.metrics.refused(route.dialect, problem)
            await send_refusal(send, dialect.refusal(problem))

    async def _answer(
        self,
        scope: Mapping[str, Any],
        receive: Receive,
        send: Send,
        admit_key: Admit,
        route: Route,
        dialect: Dialect,
    ) -> Problem | None:
        """Do a request, or say why not. Everything before the call itself leaves nothing behind."""
        headers: Headers = scope["headers"]
        by_name = dict(headers)
        query: bytes = scope.get("query_string", b"")
        try:
            caller = await admit_key(secret_of(by_name, query))
        except TreasuryError as error:
            return _unavailable(error)
        if isinstance(caller, Problem):
            return caller
        if not route.is_known:
            return Problem(code="unknown_route", message="the gateway meters no such call, so it does not pass it on")
        passed = passed_query(query, route.family)
        if isinstance(passed, Problem):
            return passed
        incoming = Incoming(
            route=route,
            dialect=dialect,
            headers=headers,
            query=passed,
            receive=receive,
            send=send,
            caller=caller,
        )
        if route.is_list:
            return await pass_list(self._tools, incoming)
        payer = self._payers.of(by_name, caller)
        if isinstance(payer, Unnamed):
            return Problem(code="forbidden", message=payer.detail, field=payer.field)
        body = await read_body(receive, by_name, self._options.body_bytes_max)
        if body is None:
            return None  # nobody is there any more
        if isinstance(body, Problem):
            return body
        try:
            return await self._read_and_call(incoming, payer, body)
        except ApartFailed as error:
            log.error("request_not_read", error=str(error), body_bytes=body.length)
            return Problem(code="unavailable", message="the request could not be read: ask again", retry_after_s=1)

    async def _read_and_call(self, incoming: Incoming, payer: Payer, body: Body) -> Problem | None:
        """Read a request, add what its payer has to be told, and make the call, of another model if need be."""
        facts = await self._tools.reader.facts(body, incoming.dialect, incoming.route)
        if isinstance(facts, Malformed):
            return Problem(code="invalid", message=facts.detail, field=facts.field)
        note: Note | None = None
        if self._options.budget_notes and incoming.dialect.metered:
            body, note = await self._with_note(incoming, payer, facts, body)
            if note is not None:
                incoming = msgspec.structs.replace(incoming, send=self._watching(note, incoming.send))

        problem = await self._first_affordable(incoming, payer, facts, body)
        if problem is not None and note is not None:
            self._notes.give_back(note)
        return problem

    async def _first_affordable(
        self, incoming: Incoming, payer: Payer, facts: RequestFacts, body: Body
    ) -> Problem | None:
        """Make the call, of a cheaper model if need be and the file says of which."""
        options = self._options
        if not options.downgrade:
            return await self._admit_and_call(
                incoming, payer, facts, body, facts.model or "", options.output_tokens_least
            )

        async def attempt(body: Body, facts: RequestFacts, model: str, output_tokens_least: int) -> Problem | None:
            return await self._admit_and_call(incoming, payer, facts, body, model, output_tokens_least)

        reader = self._tools.reader
        return await first_affordable(attempt, options, reader, incoming.route, incoming.dialect, facts, body)

    async def _with_note(
        self, incoming: Incoming, payer: Payer, facts: RequestFacts, body: Body
    ) -> tuple[Body, Note | None]:
        """The request with what its payer has to be told of its budgets."""
        model = facts.model or ""
        targets = self._tools.upstreams.targets(incoming.route.family, model)
        if not targets:
            return body, None
        await self._tools.settlements.booked()
        chain = within(await self._remaining.chain(payer.account, is_fresh=True), incoming.caller.scope)
        note = self._notes.due(chain, _attributes(payer, model, targets))
        if note is None:
            return body, None
        noted = await self._tools.reader.changed(body, incoming.dialect, facts, Change(append_note=note.text))
        if noted is body:  # it does not end with a turn of the caller
            self._notes.give_back(note)
            return body, None
        self.metrics.notes[note.severity] += 1
        return noted, note

    def _watching(self, note: Note, send: Send) -> Send:
        """Take note of an answer that is an error: the agent has not read what it was told."""

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                self._notes.give_back(note)
            await send(message)

        return send_on

    async def _admit_and_call(
        self,
        incoming: Incoming,
        payer: Payer,
        facts: RequestFacts,
        body: Body,
        model: str,
        output_tokens_least: int,
    ) -> Problem | None:
        """Count, price and hold, then make the call; or say why not."""
        options, route, dialect, caller = self._options, incoming.route, incoming.dialect, incoming.caller
        tools = self._tools
        if not model:
            return Problem(code="invalid", message="the model is missing", field="model")
        if len(model) > TEXT_LENGTH_MAX:
            return Problem(code="invalid", message=f"a model has {TEXT_LENGTH_MAX} characters at most", field="model")
        targets = tools.upstreams.targets(route.family, model)
        if not targets:
            return Problem(code="unknown_model", message=f"no provider is configured that serves {model!r:.100}")
        if targets[0].is_full and all(target.is_full for target in targets):
            return Problem(code="unavailable", message="the provider has all calls that it may have", retry_after_s=1)
        if not dialect.metered:
            return await pass_unmetered(tools, incoming, targets, facts, body, model)
        if facts.background:
            return Problem(code="invalid", message="a call in the background cannot be metered", field="background")
        try:
            counted = await self._count(body, route, model, targets)
        except Invalid as error:
            return Problem(code="invalid", message=str(error))
        if is_unseen(facts, counted) and options.unseen_input_tokens_max is None:
            return Problem(
                code="invalid",
                message=f"{_unseen(facts, counted)} add input that is not in the request, and no bound is set for it "
                "(unseen_input_tokens_max)",
            )
        try:
            await self._own_prices.refresh()
        except TreasuryError as error:
            return _unavailable(error)
        prices = self._prices(targets, model, facts)
        if isinstance(prices, Problem):
            return prices
        bound = bound_of(
            facts,
            counted,
            prices,
            options,
            output_tokens_default=lambda: _output_tokens_default(route, model, targets),
            is_embedding=route.dialect == "openai.embeddings",
            leave=options.wrap_up if options.wrap_up and not wraps_up(incoming.headers) else {},
        )
        attributes = _attributes(payer, model, targets)
        may_grow = facts.stream and facts.choices == 1 and not facts.thinks
        grows = may_grow and tools.shares.shows_all(model, facts.thinks)
        expected = tools.lengths.expected(payer.account, model) if facts.choices == 1 else None
        if expected is None and grows:
            start = options.output_tokens_start
            expected = Expected(tokens=start, spread=start, known=1)
        silent_s = max([target.upstream.answer_s_max + target.upstream.silence_s_max for target in targets])
        asking = Asking(
            tools.settlements,
            bound,
            payer,
            caller,
            self._tenant,
            attributes=attributes,
            lease_s=max(LEASE_S, 2 * math.ceil(silent_s)),
            least={} if expected is None else await self._remaining.least(payer.account),
        )

        wanted = wish(asking, output_tokens_least, expected=expected, ahead=2 * options.margin_tokens, grows=grows)
        may_wait = output_tokens_least == options.output_tokens_least  # else a cheaper model is asked first
        admitted: Admitted | Refused | None
        try:
            admitted = await admit(wanted)
            if isinstance(admitted, Refused) and admitted.code == "budget_busy" and may_wait:
                admitted = await admit_later(wanted, admitted, options.busy_wait_s_max, incoming.receive)
        except TreasuryError as error:
            return _unavailable(error)
        if admitted is None:
            return None  # nobody is there any more
        if isinstance(admitted, Refused):
            return problem_of(admitted, bound.leave)
        if not options.unbudgeted and not await self._remaining.is_limited(payer.account, attributes):
            await release(tools.settlements, admitted)
            return Problem(
                code="forbidden",
                message=f"no budget of {payer.account} or above it limits this call (unbudgeted would let it through)",
            )
        self.metrics.clamped += admitted.output_tokens < bound.output_tokens_max
        order = Order(
            incoming=incoming,
            facts=facts,
            body=body,
            payer=payer,
            counted=counted,
            admitted=admitted,
            targets=targets,
            model=model,
            price=prices[0] if prices else None,
            more_headers=lambda: self._headers_for(
                payer.account, caller.scope, admitted.id, None if model == facts.model else model
            ),
            passed_over=REFUSED if facts.model is not None and model != facts.model else frozenset(),
        )
        if await Call(tools, order).run():
            return None
        return Problem(
            code="invalid", message=f"the provider of {model!r:.100} refuses what was asked of another model"
        )

    async def _count(self, body: Body, route: Route, model: str, targets: Sequence[Target]) -> Count:
        """Count the input as those who may be asked name the model; the most that it may be."""
        kinds = {(target.model_for(model), target.upstream.priced_as) for target in targets}
        counts = [await self._tools.reader.count(body, route.dialect, name, provider) for name, provider in kinds]
        return counts[0] if len(counts) == 1 else max(counts, key=lambda one: one.upper_bound)

    def _prices(self, targets: Sequence[Target], model: str, facts: RequestFacts) -> list[Price] | Problem:
        """The prices of all that may be asked; empty: the cost is not bounded, by the policy."""
        at = datetime.now(UTC)
        prices: list[Price] = []
        for target in targets:
            price = self._tools.prices.price_of(
                target.upstream.priced_as,
                target.model_for(model),
                at,
                facts.service_tier,
                inference_geo=facts.inference_geo,
            )
            if isinstance(price, UnknownPrice):
                if price.policy == "refuse":
                    return Problem(
                        code="unknown_model",
                        message=f"nobody knows what {model!r:.100} costs: add a price, or set unknown_price",
                        field="model",
                    )
                return []
            prices.append(price)
        return prices

    async def _headers_for(self, account: str, scope: str | None, hold: str, model: str | None) -> Headers:
        headers: list[tuple[bytes, bytes]] = [(b"x-fiscus-hold", hold.encode())]
        if model is not None:
            headers.append((b"x-fiscus-model", model.encode("ascii", "replace")))
        if self._options.remaining_headers:
            headers += await self._remaining.headers(account, scope)
        return headers


def problem_of(refused: Refused, leave: Amounts) -> Problem:
    """A refusal of the ledger, for the dialect to word.

    Args:
        refused: by the ledger.
        leave: what the call had to leave.
    """
    code = CODES.get(refused.code, "invalid")
    binding = refused.binding
    message = refused.detail
    detail: dict[str, str | int | None] = {"reason": refused.code}
    if binding is not None:
        window = msgspec.to_builtins(binding)
        detail |= {name: value for name, value in window.items() if name != "match"}
        detail["requested"] = refused.requested
        kept = leave.get(binding.unit, 0)
        if kept and code in ("budget_exceeded", "budget_busy"):
            message += f"; {kept} of it would be left for a call that wraps up (X-Fiscus-Wrap-Up: 1)"
            detail["kept"] = kept
    if binding is not None and binding.match:
        detail["match"] = ", ".join(f"{name}={value}" for name, value in binding.match.items())
    if refused.resets_at is not None:
        detail["resets_at"] = refused.resets_at.isoformat()
    return Problem(
        code=code,
        message=message,
        retry_after_s=refused.retry_after_s if code == "budget_busy" else None,
        field=refused.field,
        detail=detail,
    )


def _output_tokens_default(route: Route, model: str, targets: Sequence[Target]) -> int:
    """What a choice has at most where the request does not say."""
    if route.dialect == "openai.completions":
        return OUTPUT_TOKENS_DEFAULT
    return min(target.upstream.output_tokens_of(model) for target in targets)


def _attributes(payer: Payer, model: str, targets: Sequence[Target]) -> dict[str, str]:
    """What budgets with ``match`` look at."""
    return {**payer.attributes, "model": model[:128], "provider": targets[0].upstream.priced_as}


def _unseen(facts: RequestFacts, counted: Count) -> str:
    return ", ".join((*facts.server_tools, *facts.input_unknown)) or ", ".join(counted.unseen)


def _unavailable(error: TreasuryError) -> Problem:
    return Problem(code="unavailable", message="the ledger is away: nothing is admitted", retry_after_s=1)
