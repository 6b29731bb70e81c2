"""The dates of a request in their order: what has happened, what is forecast, what the law sets."""

from __future__ import annotations

from typing import NamedTuple

from app.console.calls import Document
from app.console.verdicts import Audit
from app.console.words import parse

SUBJECTS = {
    "superseded-checkpoint": "an earlier version of the model",
    "reference-pool": "reference models that embed the samples",
    "database": "earlier forms of erased rows in the database's files",
}


class Step(NamedTuple):
    """`state`: done, forecast or law."""

    at: str
    state: str
    words: str


def timeline(request: Document, audits: list[Audit]) -> list[Step]:
    def done(name: str, words: str) -> list[Step]:
        return [Step(request[name], "done", words)] if request.get(name) else []

    steps = [
        *done("received_at", "Received"),
        *done("extended_at", "Longer period taken"),
        *done(
            "decided_at",
            {"refused": "Refused", "cancelled": "Cancelled", "held": "Put on hold"}.get(request["status"], "Decided"),
        ),
        *(Step(each.report.created_at, "done", f"Audited: {each.verdict}") for each in audits),
        *done("fulfilled_at", "Samples erased, request fulfilled"),
    ]
    if request["confirm_by"]:
        steps.append(Step(request["confirm_by"], "law", "Receipt must be confirmed to the person by"))
    if request["status"] not in ("refused", "cancelled"):
        steps.append(Step(request["due_at"], "law", "Answer due"))
    forecasts = [row["forecast_at"] for row in request["outcomes"] if row["forecast_at"]]
    if forecasts:
        steps.append(Step(max(forecasts), "forecast", "Models replaced, by forecast"))
    for receipt in request["receipts"]:
        if receipt["done_at"] is None and receipt["due_at"]:
            what = SUBJECTS.get(receipt["subject"], receipt["subject"])
            steps.append(Step(receipt["due_at"], "forecast", f"Goes by then: {what}"))
    return sorted(dict.fromkeys(steps), key=lambda step: parse(step.at).replace(microsecond=0))
