"""What a page says that an officer does next, and what a change of a policy means."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.console import next_steps
from app.console.policy_meaning import meaning
from app.console.words import Clock

CLOCK = Clock("UTC")


def at(days: float) -> str:
    return f"{datetime.now(UTC) + timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}"


REQUEST: dict[str, Any] = {
    "status": "accepted", "jurisdiction": "gdpr:DE", "proposal": None, "confirm_by": None, "confirmed_at": None,
    "extended_at": None, "extension_sent_at": None, "refusals": [], "fulfilled_at": None, "answered_at": None,
    "due_at": at(20), "identity": {"status": "not-needed", "until": None}, "outcomes": [], "receipts": [],
}  # fmt: skip
DONE = {"status": "fulfilled", "fulfilled_at": at(0)}
PROPOSED = {"by": "key_1"}
NOTICE = {"kind": "completion", "subject": "Done <b>", "sent_at": None}


@pytest.mark.parametrize(
    ("change", "notices", "wanted"),
    [
        ({}, [], "make an"),
        ({}, [], "Nothing else to do: the service carries it out."),
        ({"outcomes": [{"forecast_at": at(1)}]}, [], "by forecast"),
        ({"confirm_by": at(9)}, [], "Confirm the receipt"),
        ({"extended_at": at(0)}, [], "letter about the longer period"),
        ({"status": "needs-attention"}, [], "Decide"),
        ({"status": "held"}, [], "End the hold"),
        ({"status": "held", "proposal": PROPOSED}, [], "A second person"),
        ({"status": "held", "identity": {"status": "asked", "until": at(5)}}, [], "Note the proof"),
        ({"status": "held", "identity": {"status": "refused", "until": None}}, [], "Refuse the request"),
        ({"status": "refused", "refusals": [{"letter_sent_at": None}]}, [], "letter about the refusal"),
        ({"status": "refused", "refusals": [{"letter_sent_at": at(0)}]}, [], "The request is over."),
        ({"status": "cancelled"}, [], "The request is over."),
        (DONE, [], "Tell the person"),
        (DONE, [NOTICE], "Done &lt;b&gt;"),
        (DONE | {"answered_at": at(0)}, [], "The request is over."),
        (DONE | {"receipts": [{"done_at": None, "due_at": at(20)}]}, [], "Nothing to do until"),
    ],
)
def test_every_state_says_what_is_done_next(change: dict[str, Any], notices: list[Any], wanted: str) -> None:
    steps = next_steps.of_request(REQUEST | change, notices, CLOCK, certified=False, owed=0)
    assert wanted in " ".join(steps)
    more = next_steps.of_request(REQUEST | change | DONE, notices, CLOCK, certified=True, owed=2)
    assert "certificate" in " ".join(more)
    assert "2 pictures" in " ".join(more)


POLICY: dict[str, Any] = {
    "method": {"name": "amun"}, "attack": {"name": "pgd"}, "audit": {"name": "rmia"}, "remain": "all",
    "escalation": [], "on_inconclusive": "publish", "utility_floor": 0.05, "canaries": 0, "grace_seconds": 86400,
    "when": {"mode": "each"},
}  # fmt: skip
BATCH = {"mode": "batch", "max_requests": 100, "max_age_seconds": 30 * 86400}


def open_one(state: str, due: float) -> dict[str, Any]:
    return {
        "id": f"del_{state}{due}", "posted_at": at(-2), "due_at": at(due), "jurisdiction": "gdpr",
        "outcomes": [{"model": "mdl_1", "state": state}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({}, "what holds now"),
        ({"method": {"name": "salun"}, "audit": {"name": "lira"}}, "The other method carries out 2 open requests"),
        ({"audit": {"name": "lira"}}, "The other audit judges 2 open requests"),
        ({"when": BATCH}, "2 open requests wait for a batch, which closes on 100 requests, or at"),
        ({"when": BATCH}, "1 of them is due before that, the first on"),
        ({"when": BATCH | {"max_requests": 2}}, "The batch closes at once: 2 requests wait."),
        ({"grace_seconds": 0}, "kept not at all"),
        ({"canaries": 1}, "1 canary along"),
        ({"canaries": 2}, "1 request is under way, by the policy that held"),
    ],
)
def test_a_change_of_a_policy_says_what_it_means_for_open_requests(change: dict[str, Any], wanted: str) -> None:
    rows = [open_one("pending", 10), open_one("pending", 60), open_one("batched", 10)]
    assert wanted in " ".join(meaning(POLICY, POLICY | change, "mdl_1", rows, CLOCK))
    assert meaning(POLICY, POLICY | change, "mdl_1", [], CLOCK)


def test_what_waits_has_jobs_of_its_own_once_there_are_no_batches() -> None:
    said = meaning(POLICY | {"when": BATCH}, POLICY, "mdl_1", [open_one("pending", 10)], CLOCK)
    assert "1 open request that waits has a job of its own" in " ".join(said)
