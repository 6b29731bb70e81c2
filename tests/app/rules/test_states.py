"""The state tables, move by move, and the one status that a client reads."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import pytest

from app.rules import states
from app.rules.states import (
    Decision,
    IllegalMoveError,
    JobState,
    Outcome,
    RequestStatus,
    move_decision,
    move_job,
    move_outcome,
    request_status,
)

TABLES: list[tuple[type[StrEnum], dict[Any, Any], Any]] = [
    (JobState, states.JOB_MOVES, move_job),
    (Decision, states.DECISION_MOVES, move_decision),
    (Outcome, states.OUTCOME_MOVES, move_outcome),
]


@pytest.mark.parametrize(("states", "table", "move"), TABLES)
def test_every_state_has_its_moves_and_every_other_move_is_refused(
    states: type[StrEnum], table: dict[Any, Any], move: Any
) -> None:
    assert set(table) == set(states)
    for now in states:
        for to in states:
            if to in table[now]:
                assert move(now, to) is to
            else:
                with pytest.raises(IllegalMoveError, match=f"{now.value}.*{to.value}"):
                    move(now, to)


def test_an_end_is_an_end() -> None:
    for state in (JobState.SUCCEEDED, JobState.CANCELLED):
        assert not states.JOB_MOVES[state]
    for state in (JobState.FAILED, JobState.DEAD, JobState.REJECTED):
        assert states.JOB_MOVES[state] == {JobState.QUEUED}
    assert not states.OUTCOME_MOVES[Outcome.PURGED]
    assert {s for s in JobState if s not in states.TERMINAL_JOBS} == {JobState.QUEUED, JobState.RUNNING}
    assert JobState.SUCCEEDED not in states.JOB_MOVES[JobState.QUEUED], "nothing ends without having run"


@pytest.mark.parametrize(
    ("decision", "outcomes", "purged", "expected"),
    [
        (Decision.ACCEPTED, [Outcome.PENDING], False, RequestStatus.ACCEPTED),
        (Decision.ACCEPTED, [Outcome.BATCHED], False, RequestStatus.PROCESSING),
        (Decision.ACCEPTED, [Outcome.PENDING, Outcome.PUBLISHED], False, RequestStatus.PROCESSING),
        (Decision.ACCEPTED, [Outcome.BATCHED, Outcome.ATTENTION], False, RequestStatus.ATTENTION),
        (Decision.ACCEPTED, [Outcome.PUBLISHED, Outcome.PUBLISHED], False, RequestStatus.PUBLISHED),
        (Decision.ACCEPTED, [Outcome.PURGED], False, RequestStatus.PUBLISHED),
        (Decision.ACCEPTED, [Outcome.PURGED, Outcome.PURGED], True, RequestStatus.FULFILLED),
        (Decision.ACCEPTED, [], False, RequestStatus.PUBLISHED),
        (Decision.ACCEPTED, [], True, RequestStatus.FULFILLED),
        (Decision.HELD, [Outcome.PUBLISHED], True, RequestStatus.HELD),
        (Decision.REFUSED, [Outcome.ATTENTION], False, RequestStatus.REFUSED),
        (Decision.CANCELLED, [Outcome.PENDING], False, RequestStatus.CANCELLED),
    ],
)
def test_the_status_of_a_request(
    decision: Decision, outcomes: list[Outcome], purged: bool, expected: RequestStatus
) -> None:
    assert request_status(decision, outcomes, purged) is expected
    assert request_status(decision, reversed(outcomes), purged) is expected
