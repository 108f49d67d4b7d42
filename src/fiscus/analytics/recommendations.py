"""What could be saved, worked out from sums of usage: nothing is advised that no figure says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fiscus.analytics.shares import average
from fiscus.contract.analysis import Recommendation, Repeated, Totals

RECOMMENDATIONS_MAX = 20
SIMPLE_TOKENS_MAX = 500
"""Tokens of a call on average up to which a task is simple enough for a cheaper model (R46)."""

CALLS_MIN = 10
"""Calls of another model for the same task before it counts as one that can do it."""

REPEATS_MIN = 3
"""Calls with the same input from which on keeping the answer is worth a word (R46)."""

PROMPT_TOKENS_MAX = 1_000
"""Input of a prompt template on average up to which it is not long (R46)."""

EXPENSIVE_TASK_NANOUSD = 1_000_000_000
"""Cost of a call of a task on average up to which it is not dear (R46)."""

FAILED_PERCENT_MAX = 10
"""Share of calls that may fail before it is worth a word (R52)."""

TaskModel = tuple[str | None, str | None]


def recommendations(
    *,
    task_models: Mapping[TaskModel, Totals],
    templates: Mapping[str | None, Totals],
    outcomes: Mapping[str | None, Totals],
    models: Mapping[str | None, Totals],
    repeated: Iterable[Repeated],
) -> tuple[Recommendation, ...]:
    """All advice, what saves most first.

    Args:
        task_models: sums by task type and model; the others by what they are called.
        repeated: calls with the same input.
    """
    found = [
        *_cheaper_models(task_models),
        *_expensive_tasks(task_models),
        *_repeats(repeated),
        *_long_prompts(templates),
        *_failures(outcomes),
        *_unpriced(models),
    ]
    found.sort(key=lambda one: (-(one.saving_nanousd or 0), one.kind, one.subject))
    return tuple(found[:RECOMMENDATIONS_MAX])


def repeats(inputs: Mapping[str | None, Totals]) -> tuple[Repeated, ...]:
    """Inputs that were sent more than once; all but one of the calls need not have been made."""
    found = [
        Repeated(
            input_hash=name,
            calls=totals.calls,
            cost_nanousd=totals.cost_nanousd,
            wasted_nanousd=totals.cost_nanousd * (totals.calls - 1) // totals.calls,
        )
        for name, totals in inputs.items()
        if name is not None and totals.calls > 1
    ]
    return tuple(sorted(found, key=lambda one: (-one.wasted_nanousd, -one.calls, one.input_hash)))


def _cheaper_models(task_models: Mapping[TaskModel, Totals]) -> Iterable[Recommendation]:
    """Simple tasks on a model that costs more a token than another one that is used for the same task."""
    by_task: dict[str, dict[str, Totals]] = {}
    for (task, model), totals in task_models.items():
        if task is not None and model is not None and totals.cost_nanousd and not totals.unpriced_calls:
            by_task.setdefault(task, {})[model] = totals
    for task, models in by_task.items():
        known = {model: totals for model, totals in models.items() if totals.calls >= CALLS_MIN and totals.tokens}
        if not known:
            continue
        cheapest = min(known, key=lambda model: _rate(known[model]))
        for model, totals in models.items():
            if model == cheapest or average(totals.tokens, totals.calls) > SIMPLE_TOKENS_MAX or not totals.tokens:
                continue
            there = known[cheapest]
            instead = -(-totals.tokens * there.cost_nanousd // there.tokens)
            if instead >= totals.cost_nanousd:
                continue
            yield Recommendation(
                kind="cheaper_model",
                subject=f"{task}: {model}",
                detail=f"calls for {task} on {model} are short; {cheapest} does the same task for less",
                figures={
                    "calls": totals.calls,
                    "average_tokens": average(totals.tokens, totals.calls),
                    "cost_nanousd": totals.cost_nanousd,
                    "nanousd_per_million_tokens": _rate(totals),
                    "nanousd_per_million_tokens_there": _rate(there),
                    "calls_there": there.calls,
                },
                saving_nanousd=totals.cost_nanousd - instead,
            )


def _rate(totals: Totals) -> int:
    """Nano-USD per million tokens, rounded down."""
    return totals.cost_nanousd * 1_000_000 // totals.tokens


def _expensive_tasks(task_models: Mapping[TaskModel, Totals]) -> Iterable[Recommendation]:
    tasks: dict[str, Totals] = {}
    for (task, _), totals in task_models.items():
        if task is not None:
            tasks[task] = tasks.get(task, Totals()) + totals
    for task, totals in tasks.items():
        if average(totals.cost_nanousd, totals.calls) > EXPENSIVE_TASK_NANOUSD:
            yield Recommendation(
                kind="expensive_task",
                subject=task,
                detail=f"a call for {task} costs more than a dollar on average: split it, or bound its input",
                figures={
                    "calls": totals.calls,
                    "cost_nanousd": totals.cost_nanousd,
                    "average_cost_nanousd": average(totals.cost_nanousd, totals.calls),
                },
            )


def _repeats(repeated: Iterable[Repeated]) -> Iterable[Recommendation]:
    for one in repeated:
        if one.calls >= REPEATS_MIN:
            yield Recommendation(
                kind="cache_repeats",
                subject=one.input_hash,
                detail="the same input was sent again and again: keep the answer",
                figures={"calls": one.calls, "cost_nanousd": one.cost_nanousd},
                saving_nanousd=one.wasted_nanousd,
            )


def _long_prompts(templates: Mapping[str | None, Totals]) -> Iterable[Recommendation]:
    for name, totals in templates.items():
        if name is not None and average(totals.input_tokens, totals.calls) > PROMPT_TOKENS_MAX:
            yield Recommendation(
                kind="shorten_prompt",
                subject=name,
                detail=f"prompts of the template {name} are long: shorten it, or have its beginning cached",
                figures={
                    "calls": totals.calls,
                    "average_input_tokens": average(totals.input_tokens, totals.calls),
                    "cost_nanousd": totals.cost_nanousd,
                },
            )


def _failures(outcomes: Mapping[str | None, Totals]) -> Iterable[Recommendation]:
    said = {name: totals for name, totals in outcomes.items() if name is not None}
    calls = sum(totals.calls for totals in said.values())
    failed = [totals for name, totals in said.items() if name in {"error", "timeout"}]
    failures, cost = sum(totals.calls for totals in failed), sum(totals.cost_nanousd for totals in failed)
    if failures * 100 > FAILED_PERCENT_MAX * calls:
        yield Recommendation(
            kind="failed_calls",
            subject="outcome",
            detail="many calls fail, and what they cost is lost: look at their errors and at what is tried again",
            figures={"calls": calls, "failed_calls": failures, "cost_nanousd": cost},
            saving_nanousd=cost,
        )


def _unpriced(models: Mapping[str | None, Totals]) -> Iterable[Recommendation]:
    for model, totals in models.items():
        if totals.unpriced_calls:
            yield Recommendation(
                kind="price_missing",
                subject=model or "unknown model",
                detail="nobody knows what these calls cost: give the model a price",
                figures={"unpriced_calls": totals.unpriced_calls, "calls": totals.calls, "tokens": totals.tokens},
            )
