"""The dates of a request in their order: what has happened, what is forecast, what the law sets."""

from __future__ import annotations

from typing import NamedTuple

from app.console.calls import Document
from app.console.verdicts import Audit
from app.console.words import copy, parse


class Step(NamedTuple):
    """`state`: done, forecast or law. `day`: it is a day of the law, not a moment."""

    at: str
    state: str
    words: str
    day: bool = False


def timeline(request: Document, audits: list[Audit]) -> list[Step]:
    def done(name: str, said: str, *, day: bool = False) -> list[Step]:
        return [Step(request[name], "done", said, day)] if request.get(name) else []

    steps = [
        *done("received_at", "Received", day=True),
        *done("extended_at", "Longer period taken"),
        *done(
            "decided_at",
            {"refused": "Refused", "cancelled": "Cancelled", "held": "Put on hold"}.get(request["status"], "Decided"),
        ),
        *(Step(each.report.created_at, "done", f"Audited: {each.verdict}") for each in audits),
        *done("fulfilled_at", "Samples erased, request fulfilled"),
    ]
    if request["confirm_by"]:
        steps.append(Step(request["confirm_by"], "law", "Receipt must be confirmed to the person by", day=True))
    if request["status"] not in ("refused", "cancelled"):
        steps.append(Step(request["due_at"], "law", "Answer due", day=True))
    forecasts = [row["forecast_at"] for row in request["outcomes"] if row["forecast_at"]]
    if forecasts:
        steps.append(Step(max(forecasts), "forecast", "Models replaced, by forecast"))
    for receipt in request["receipts"]:
        if receipt["done_at"] is None and receipt["due_at"]:
            steps.append(
                Step(
                    receipt["due_at"],
                    "forecast",
                    f"Goes by then: {copy(receipt)[:1].lower()}{copy(receipt)[1:]}",
                    day=True,
                )
            )
    return sorted(dict.fromkeys(steps), key=lambda step: parse(step.at).replace(microsecond=0))
