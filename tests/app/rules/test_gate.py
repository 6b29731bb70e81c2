"""The gate, over every finding, escalation, step and clock that can come together."""

from __future__ import annotations

from datetime import timedelta
from itertools import product
from typing import Any

import pytest

from app.rules.gate import LATE_FACTOR, Clock, EscalationStep, Finding, GateAction, candidates, decide, retrains_null

A, A2, A3 = EscalationStep("a"), EscalationStep("a", stronger=True), EscalationStep("a", stronger=True)
B, B2, EXACT = EscalationStep("b"), EscalationStep("b", stronger=True), EscalationStep("exact", exact=True)
ESCALATIONS = [
    [A], [EXACT], [A, EXACT], [A, A2], [A, A2, EXACT], [A, B, EXACT], [A, A2, A3, B, B2, EXACT], [A, A2, B, A, A2],
]  # fmt: skip
HOUR = timedelta(hours=1)
CLOCKS = [None, 0.5, 1.4, 1.6, 100.0]  # hours left; each step needs one
CASES = [
    (steps, at, Finding(*finding), hours, retrain)
    for steps in ESCALATIONS
    for at in range(len(steps))
    for finding in product(("pass", "fail", "inconclusive"), (False, True), (False, True), (False, True))
    for hours in CLOCKS
    for retrain in (False, True)
]


def ask(
    steps: list[EscalationStep], at: int, finding: Finding, hours: float | None, retrain: bool = False
) -> GateAction:
    left = None if hours is None else hours * HOUR
    return decide(finding, steps, at, Clock(left, [HOUR] * len(steps)), retrain_inconclusive=retrain)


def in_time(hours: float | None) -> bool:
    return hours is None or hours >= LATE_FACTOR


def gentler(steps: list[EscalationStep], at: int) -> list[int]:
    """Steps after `at` that are not in its unbroken run of stronger settings."""
    return [i for i in range(at + 1, len(steps)) if not (steps[i].stronger and steps[i].method == steps[at].method)]


def test_every_decision_keeps_the_rules() -> None:
    for steps, at, finding, hours, retrain in CASES:
        case = (steps, at, finding, hours, retrain)
        action = ask(*case)
        assert (action.step is not None) == (action.action == "escalate"), case
        assert action.reason, case
        if steps[at].exact:
            assert (action.action, action.alert) == ("publish", False), case
            continue
        if action.action == "escalate":
            assert action.step is not None
            assert action.step > at, case
            if finding.utility_kept and finding.over_forgotten and finding.verdict == "fail":
                assert action.step in gentler(steps, at), "over-forgetting goes to no stronger setting"
            if not finding.utility_kept and finding.verdict != "fail":
                assert action.step in gentler(steps, at), "nor does a loss of accuracy"
                assert in_time(hours), "such a step is tried only if it can end in time"
        if finding.verdict == "fail":
            assert action.action != "publish", "a fail of an approximate method is never published"
            passed_over = not finding.utility_kept and gentler(steps, at) and in_time(hours)
            if action.action == "escalate" and not passed_over and not finding.over_forgotten:
                assert action.step == at + 1
        if finding.leans and action.action == "publish" and finding.utility_kept:
            assert action.alert, "what leans to a fail is published for the legal deadline alone"
        if action.action == "attention":
            assert finding.verdict == "fail" or finding.leans, "only these can leave nothing to publish"
            milder = finding.over_forgotten or (not finding.utility_kept and finding.verdict != "fail")
            left = gentler(steps, at) if milder else range(at + 1, len(steps))
            assert not list(left), "and only without a step that may follow"
        if action.action == "publish" and not finding.utility_kept:
            assert not gentler(steps, at) or not in_time(hours), "the floor holds while a step is left in time"
        if action.alert:
            assert not in_time(hours), case


def test_the_deadline_changes_nothing_else() -> None:
    """With time enough the clock is as if there were none; without it only published-instead-of-escalated differs."""
    for steps, at, finding, _, retrain in CASES:
        free, near = ask(steps, at, finding, None, retrain), ask(steps, at, finding, 0.5, retrain)
        assert ask(steps, at, finding, 100.0, retrain) == free
        if (free.action, free.step) != (near.action, near.step):
            assert free.action == "escalate"
            assert near.action in ("publish", "escalate", "attention")
            assert near.alert or near.action == "attention" or finding.verdict == "fail" or finding.leans
            assert not finding.utility_kept or finding.verdict == "inconclusive" or finding.leans


TELLING: list[tuple[list[EscalationStep], int, dict[str, Any], float | None, tuple[str, int | None, bool]]] = [
    ([A, EXACT], 0, {"verdict": "pass"}, None, ("publish", None, False)),
    ([A, EXACT], 0, {"verdict": "inconclusive"}, None, ("publish", None, False)),
    ([A, EXACT], 0, {"verdict": "fail"}, None, ("escalate", 1, False)),
    ([A, EXACT], 0, {"verdict": "fail"}, 0.5, ("escalate", 1, True)),
    ([A], 0, {"verdict": "fail"}, None, ("attention", None, False)),
    ([A, EXACT], 1, {"verdict": "fail"}, None, ("publish", None, False)),
    ([A, A2, B, EXACT], 0, {"verdict": "fail"}, None, ("escalate", 1, False)),
    ([A, A2, B, EXACT], 0, {"verdict": "fail", "over_forgotten": True}, None, ("escalate", 2, False)),
    ([A, A2, B], 2, {"verdict": "fail"}, None, ("attention", None, False)),
    ([A, A2], 0, {"verdict": "fail", "over_forgotten": True}, None, ("attention", None, False)),
    ([A, B, EXACT], 0, {"verdict": "inconclusive", "leans": True}, None, ("escalate", 1, False)),
    ([A, B, EXACT], 1, {"verdict": "inconclusive", "leans": True}, 0.5, ("publish", None, True)),
    ([A, B], 1, {"verdict": "inconclusive", "leans": True}, None, ("attention", None, False)),
    ([A, EXACT], 0, {"verdict": "inconclusive", "utility_kept": False}, 10.0, ("escalate", 1, False)),
    ([A, EXACT], 0, {"verdict": "inconclusive", "utility_kept": False}, 1.0, ("publish", None, True)),
    ([A], 0, {"verdict": "inconclusive", "utility_kept": False}, 1.0, ("publish", None, False)),
    ([A, A2], 0, {"verdict": "inconclusive", "utility_kept": False}, None, ("publish", None, False)),
]  # fmt: skip


@pytest.mark.parametrize(("steps", "at", "finding", "hours", "expected"), TELLING)
def test_a_telling_case(
    steps: list[EscalationStep],
    at: int,
    finding: dict[str, Any],
    hours: float | None,
    expected: tuple[str, int | None, bool],
) -> None:
    action = ask(steps, at, Finding(**finding), hours)
    assert (action.action, action.step, action.alert) == expected


def test_an_inconclusive_candidate_is_retrained_where_the_policy_asks_and_time_allows() -> None:
    finding = Finding("inconclusive")
    assert ask([A, B, EXACT], 0, finding, None, retrain=True).step == 2
    near = ask([A, B, EXACT], 0, finding, 1.0, retrain=True)
    assert (near.action, near.alert) == ("publish", True)
    assert ask([A, B], 0, finding, None, retrain=True).action == "publish"


def test_the_candidates_are_the_approximate_steps() -> None:
    assert [candidates(steps) for steps in ESCALATIONS[:5]] == [1, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("change", "waits"),
    [
        ({}, True),
        ({"null_source": "exchangeable"}, False),
        ({"training": None}, False),
        ({"most": 299}, False),
        ({"most": 300}, True),
        ({"samples": 3}, False),
        ({"controls": 0}, False),
        ({"left": timedelta(seconds=449)}, False),
        ({"left": timedelta(seconds=450)}, True),
    ],
)
def test_a_batch_without_a_null_waits_for_retrains_in_budget_and_in_time(change: dict[str, Any], waits: bool) -> None:
    given: dict[str, Any] = {
        "null_source": "none",
        "training": timedelta(seconds=60),
        "most": 600,
        "samples": 40,
        "controls": 900,
    }
    given |= {"left": None} | change
    clock = Clock(given["left"], [])
    sizes = given["samples"], given["controls"]
    assert retrains_null(given["null_source"], *sizes, given["training"], given["most"], clock) is waits
