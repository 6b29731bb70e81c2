"""The gate, over every finding, ladder, rung and clock that can come together."""

from __future__ import annotations

from datetime import timedelta
from itertools import product
from typing import Any

import pytest

from app.rules.gate import LATE_FACTOR, Clock, Finding, Rung, Step, decide, splits

A, A2, A3 = Rung("a"), Rung("a", stronger=True), Rung("a", stronger=True)
B, B2, EXACT = Rung("b"), Rung("b", stronger=True), Rung("exact", exact=True)
LADDERS = [
    [A], [EXACT], [A, EXACT], [A, A2], [A, A2, EXACT], [A, B, EXACT], [A, A2, A3, B, B2, EXACT], [A, A2, B, A, A2],
]  # fmt: skip
HOUR = timedelta(hours=1)
CLOCKS = [None, 0.5, 1.4, 1.6, 100.0]  # hours left; each rung needs one
CASES = [
    (ladder, at, Finding(*finding), hours, retrain)
    for ladder in LADDERS
    for at in range(len(ladder))
    for finding in product(("pass", "fail", "inconclusive"), (False, True), (False, True), (False, True))
    for hours in CLOCKS
    for retrain in (False, True)
]


def ask(ladder: list[Rung], at: int, finding: Finding, hours: float | None, retrain: bool = False) -> Step:
    left = None if hours is None else hours * HOUR
    return decide(finding, ladder, at, Clock(left, [HOUR] * len(ladder)), retrain_inconclusive=retrain)


def in_time(hours: float | None) -> bool:
    return hours is None or hours >= LATE_FACTOR


def gentler(ladder: list[Rung], at: int) -> list[int]:
    """Rungs after `at` that are not in its unbroken run of stronger settings."""
    return [i for i in range(at + 1, len(ladder)) if not (ladder[i].stronger and ladder[i].method == ladder[at].method)]


def test_every_decision_keeps_the_rules() -> None:
    for ladder, at, finding, hours, retrain in CASES:
        case = (ladder, at, finding, hours, retrain)
        step = ask(*case)
        assert (step.rung is not None) == (step.action == "climb"), case
        assert step.reason, case
        if ladder[at].exact:
            assert (step.action, step.alert) == ("publish", False), case
            continue
        if step.action == "climb":
            assert step.rung is not None
            assert step.rung > at, case
            if finding.utility_kept and finding.over_forgotten and finding.verdict == "fail":
                assert step.rung in gentler(ladder, at), "over-forgetting goes to no stronger setting"
            if not finding.utility_kept and finding.verdict != "fail":
                assert step.rung in gentler(ladder, at), "nor does a loss of accuracy"
                assert in_time(hours), "such a rung is tried only if it can end in time"
        if finding.verdict == "fail":
            assert step.action != "publish", "a fail of an approximate method is never published"
            passed_over = not finding.utility_kept and gentler(ladder, at) and in_time(hours)
            if finding.judged and step.action == "climb" and not passed_over:
                assert ladder[step.rung or 0].exact, "trying again after a judgement would be optional stopping"
        if step.action == "judge":
            assert not finding.judged, case
            assert finding.verdict != "fail", case
        if step.action == "attention":
            assert finding.verdict == "fail", "only a fail can leave nothing to publish"
            left = gentler(ladder, at) if finding.over_forgotten else range(at + 1, len(ladder))
            assert not [i for i in left if ladder[i].exact or not finding.judged], (
                "and only without a rung that may follow"
            )
        if step.action == "publish" and not finding.utility_kept:
            assert not gentler(ladder, at) or not in_time(hours), "the floor holds while a rung is left in time"
        if step.alert:
            assert not in_time(hours), case


def test_the_deadline_changes_nothing_else() -> None:
    """With time enough the clock is as if there were none; without it only published-instead-of-climb differs."""
    for ladder, at, finding, _, retrain in CASES:
        free, near = ask(ladder, at, finding, None, retrain), ask(ladder, at, finding, 0.5, retrain)
        assert ask(ladder, at, finding, 100.0, retrain) == free
        if (free.action, free.rung) != (near.action, near.rung):
            assert free.action == "climb"
            assert near.action in ("publish", "judge", "climb", "attention")
            assert near.alert or near.action in ("judge", "attention") or finding.verdict == "fail"
            assert not finding.utility_kept or finding.verdict == "inconclusive"


TELLING: list[tuple[list[Rung], int, dict[str, Any], float | None, tuple[str, int | None, bool]]] = [
    ([A, EXACT], 0, {"verdict": "pass"}, None, ("publish", None, False)),
    ([A, EXACT], 0, {"verdict": "inconclusive"}, None, ("publish", None, False)),
    ([A, EXACT], 0, {"verdict": "fail"}, None, ("climb", 1, False)),
    ([A, EXACT], 0, {"verdict": "fail"}, 0.5, ("climb", 1, True)),
    ([A], 0, {"verdict": "fail"}, None, ("attention", None, False)),
    ([A, EXACT], 1, {"verdict": "fail"}, None, ("publish", None, False)),
    ([A, A2, B, EXACT], 0, {"verdict": "fail", "judged": False}, None, ("climb", 1, False)),
    ([A, A2, B, EXACT], 0, {"verdict": "fail", "judged": False, "over_forgotten": True}, None, ("climb", 2, False)),
    ([A, A2, B, EXACT], 0, {"verdict": "fail"}, None, ("climb", 3, False)),
    ([A, A2, B], 0, {"verdict": "fail"}, None, ("attention", None, False)),
    ([A, A2], 0, {"verdict": "fail", "judged": False, "over_forgotten": True}, None, ("attention", None, False)),
    ([A, B, EXACT], 0, {"verdict": "inconclusive", "judged": False}, None, ("judge", None, False)),
    ([A, EXACT], 0, {"verdict": "inconclusive", "utility_kept": False}, 10.0, ("climb", 1, False)),
    ([A, EXACT], 0, {"verdict": "inconclusive", "utility_kept": False}, 1.0, ("publish", None, True)),
    ([A], 0, {"verdict": "inconclusive", "utility_kept": False}, 1.0, ("publish", None, False)),
    ([A, A2], 0, {"verdict": "inconclusive", "utility_kept": False}, None, ("publish", None, False)),
]  # fmt: skip


@pytest.mark.parametrize(("ladder", "at", "finding", "hours", "expected"), TELLING)
def test_a_telling_case(
    ladder: list[Rung], at: int, finding: dict[str, Any], hours: float | None, expected: tuple[str, int | None, bool]
) -> None:
    step = ask(ladder, at, Finding(**finding), hours)
    assert (step.action, step.rung, step.alert) == expected


def test_an_inconclusive_candidate_is_retrained_where_the_policy_asks_and_time_allows() -> None:
    finding = Finding("inconclusive")
    assert ask([A, B, EXACT], 0, finding, None, retrain=True).rung == 2
    near = ask([A, B, EXACT], 0, finding, 1.0, retrain=True)
    assert (near.action, near.alert) == ("publish", True)
    assert ask([A, B], 0, finding, None, retrain=True).action == "publish"


def test_references_are_parted_for_two_approximate_rungs_and_more() -> None:
    assert [splits(ladder) for ladder in LADDERS[:5]] == [False, False, False, True, True]
