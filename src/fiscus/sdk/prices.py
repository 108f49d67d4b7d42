"""Own prices, stated while the ledger runs: the part of the treasury's face that is about them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from fiscus.contract.queries import AnyQuery, ListPrices, PricesView, View
from fiscus.core.commands import AnyCommand, RemovePrice
from fiscus.core.outcomes import AnyOutcome, PriceAnswer
from fiscus.pricing.overrides import Usd
from fiscus.pricing.stated import put_price


class Prices:
    """Mixed into ``Treasury``."""

    async def execute(self, command: AnyCommand, *, idempotency_key: str | None = None) -> AnyOutcome:
        """Have any command decided; see ``Treasury``."""
        raise NotImplementedError

    async def read(self, query: AnyQuery) -> View:
        """Answer any query; see ``Treasury``."""
        raise NotImplementedError

    async def update_pricing(
        self,
        provider: str,
        model: str,
        *,
        input: Usd,
        output: Usd,
        rates: Mapping[str, Usd] | None = None,
        fees: Mapping[str, Usd] | None = None,
        tiers: Mapping[int, Mapping[str, Usd]] | None = None,
        service_tier: str | None = None,
        valid_from: datetime | None = None,
        valid_to: datetime | None = None,
        price: str | None = None,
        idempotency_key: str | None = None,
    ) -> PriceAnswer:
        """State what a model costs, from now or from ``valid_from`` on; all nodes follow within a second.

        Args:
            provider: who sells it; like ``model`` a name, or a pattern with ``*`` and ``?``.
            model: as it is called in requests and answers.
            input: USD per million tokens, an integer or a decimal text; a float is refused. ``output`` likewise.
            output: see ``input``.
            rates: others per million tokens, such as ``cache_read``; left out, they follow from the two.
            fees: USD for 1,000 ``requests``, ``web_searches`` and others.
            tiers: above so many input tokens → other rates.
            service_tier: only for calls of this tier.
            valid_from: must not have passed: what is booked keeps its price. ``valid_to``: when it ends.
            valid_to: see ``valid_from``.
            price: its name; made of provider, model and tier unless given.
            idempotency_key: a repeat with it answers the same. Without one, too, the same price again changes nothing.

        Raises:
            Invalid: a price is none; ``refused.field`` says which.
        """
        command = put_price(
            price,
            provider,
            model,
            rates={"input": input, "output": output, **(rates or {})},
            fees=fees,
            tiers=tiers,
            service_tier=service_tier,
            valid_from=valid_from,
            valid_to=valid_to,
        )
        answer = await self.execute(command, idempotency_key=idempotency_key)
        assert isinstance(answer, PriceAnswer)
        return answer

    async def remove_price(self, price: str, *, idempotency_key: str | None = None) -> PriceAnswer:
        """End a price of our own now; what is generally known holds from then on."""
        answer = await self.execute(RemovePrice(price=price), idempotency_key=idempotency_key)
        assert isinstance(answer, PriceAnswer)
        return answer

    async def prices(self) -> tuple[PriceAnswer, ...]:
        """Our own prices; the one that was changed last comes first, and is taken where several fit."""
        view = await self.read(ListPrices())
        assert isinstance(view, PricesView)
        return tuple(price for price in view.prices if price.active)
