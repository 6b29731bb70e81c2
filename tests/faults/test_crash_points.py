"""A worker is killed at every named point of a real deletion; another finishes it, as if nothing had happened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.core import crash_points
from tests.faults.harness import Case, Prepared, case_of

BEFORE = ["claim.uncommitted"]
UNLEARN = [
    "unlearn.claimed",
    "unlearn.attack.begin",
    "unlearn.written",
    "unlearn.adversarial.stored",
    "unlearn.adversarial.kept",
    "unlearn.attack.end",
    "unlearn.finetune.begin",
    "unlearn.resume.stored",
    "unlearn.resume.kept",
    "unlearn.candidate.stored",
    "unlearn.candidate.kept",
    "unlearn.finetune.end",
    "unlearn.audit.begin",
    "unlearn.audit.end",
    "unlearn.publish.begin",
    "unlearn.publish.uncommitted",
]
PUBLISHED = ["unlearn.publish.end"]
PURGE = [
    "purge.claimed",
    "purge.rewrite.begin",
    "purge.written",
    "purge.swap.uncommitted",
    "purge.rewrite.end",
    "purge.remove.begin",
    "purge.removed",
    "purge.complete.uncommitted",
]
ENDED = ["purge.remove.end"]
POINTS = BEFORE + UNLEARN + PUBLISHED + PURGE + ENDED
FULFILLED = ("accepted", True, "purged", 2)
SOME = ["unlearn.adversarial.kept", "unlearn.publish.uncommitted", "unlearn.publish.end", "purge.rewrite.end"]


@pytest.fixture(scope="module")
def straight(on_sqlite: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The same deletion without a fault: its end, and the points that it passed."""
    passed: list[str] = []
    with pytest.MonkeyPatch.context() as patch, case_of(on_sqlite, tmp_path_factory.mktemp("s") / "data") as case:
        patch.setattr(crash_points, "point", passed.append)
        case.drain()
        yield {"passed": passed, "account": case.account(), "strays": case.strays()}


def test_the_list_holds_every_point_and_the_straight_run_leaves_nothing(straight: dict[str, Any]) -> None:
    assert set(straight["passed"]) == set(POINTS)
    assert straight["account"]["request"] == FULFILLED
    assert straight["strays"] == []


def check_a_kill_at(point: str, case: Case) -> None:
    case.killed_at(point)
    kept = case.artifacts()
    case.expire()
    if point not in PUBLISHED + PURGE + ENDED:
        assert case.run_one()
        after = case.artifacts()
        finished = {name: row for name, row in kept.items() if name != "resume"}
        assert {name: after[name] for name in finished} == finished, "a finished stage was done again"
    case.drain()

    job, purge = case.job(), case.purge()
    assert (job.state, purge.state) == ("succeeded", "succeeded")
    assert (job.attempts, purge.attempts) == (1 + (point in UNLEARN), 1 + (point in PURGE))


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_every_point_changes_nothing(
    point: str, on_sqlite: Prepared, tmp_path: Path, straight: dict[str, Any]
) -> None:
    with case_of(on_sqlite, tmp_path / "data") as case:
        check_a_kill_at(point, case)
        assert case.account() == straight["account"]
        assert case.strays() == []


@pytest.mark.services
@pytest.mark.parametrize("point", SOME)
@pytest.mark.slow
def test_a_kill_on_postgres_changes_nothing(point: str, on_postgres: Prepared, tmp_path: Path) -> None:
    with case_of(on_postgres, tmp_path / "data") as case:
        check_a_kill_at(point, case)
        account = case.account()
        assert [(number, state) for number, _, _, state, _ in account["versions"]] == [
            (1, "superseded"),
            (2, "current"),
        ]
        assert account["request"] == FULFILLED
        assert len(set(account["receipts"])) == len(account["receipts"])
        assert case.strays() == []
