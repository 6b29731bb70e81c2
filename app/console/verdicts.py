"""The verdict of a request in one sentence, from the audits that its models were published with."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from app.console.calls import Api, Document
from app.formats.audit_report import AuditReport
from app.reports.page import HEADLINES, situation

ENDINGS = {
    "refused": "The request was refused.",
    "cancelled": "The request was cancelled.",
    "held": "The request is on hold: nothing happens to its samples.",
    "accepted": "The request is accepted. No model has been changed yet.",
    "processing": "The models are being changed.",
}
WORST_FIRST = ("fail", "inconclusive", "pass")


@dataclass(frozen=True)
class Audit:
    """What a report says first. `model` and `version`: whose it is."""

    model: str
    version: int
    verdict: str
    headline: str
    reason: str
    next_steps: list[str]
    report: AuditReport

    @property
    def address(self) -> str:
        return f"/v1/models/{self.model}/versions/{self.version}/audit"


def read(model: str, version: int, document: Document) -> Audit:
    report = AuditReport.model_validate(document["report"])
    judged = report.judgement
    headline = HEADLINES[situation(judged, report.gate)]
    return Audit(model, version, judged.verdict, headline, judged.reason, report.next_steps, report)


async def of_version(api: Api, model: str, version: int) -> Audit | None:
    """None where the version has no report."""
    found = await api.find(f"/models/{model}/versions/{version}/audit")
    return None if found is None else read(model, version, found)


async def of_request(api: Api, request: Document) -> list[Audit]:
    """Of the versions that its models were published with."""
    done = [row for row in request["outcomes"] if row["version"] is not None]
    found = await asyncio.gather(*(of_version(api, row["model"], row["version"]) for row in done))
    return [each for each in found if each is not None]


def sentence(request: Document, audits: list[Audit]) -> tuple[str, str]:
    """The verdict (empty while there is none) and the sentence: of several models the worst."""
    if audits and request["status"] not in ("refused", "cancelled"):
        worst = min(audits, key=lambda each: WORST_FIRST.index(each.verdict))
        return worst.verdict, worst.headline
    if request["status"] == "needs-attention":
        return "", "A person must decide: the service cannot go on by itself."
    if request["status"] in ("published", "fulfilled", "incomplete"):
        return "", "The samples are erased. No model was audited for this request."
    return "", ENDINGS.get(request["status"], "")
