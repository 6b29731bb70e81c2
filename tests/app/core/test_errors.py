"""Problem documents."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from app import jobs
from app.core import errors
from app.core.config import Settings
from app.core.errors import AppError, Conflict, Unauthorized

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, AppError)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_is_a_problem_with_a_type_and_a_status_of_its_own(kind: type[AppError]) -> None:
    document = kind("Because.").document()
    assert set(document) == {"type", "title", "status", "detail"}
    assert document["type"] == "urn:lethe:problems/" + kind.kind
    assert document["status"] == kind.status
    assert document["detail"] == "Because."
    assert json.loads(json.dumps(document)) == document


def test_an_operator_chooses_what_types_begin_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETHE_PROBLEM_BASE", "https://forget.example/problems/")
    monkeypatch.setattr(errors, "get_settings", Settings)
    assert Conflict("No.").document()["type"] == "https://forget.example/problems/conflict"
    assert jobs.problem("cancelled", "No.")["type"] == "https://forget.example/problems/cancelled"
    for base in ("https://forget.example/problems", "problems/", ""):
        monkeypatch.setenv("LETHE_PROBLEM_BASE", base)
        with pytest.raises(ValidationError, match="problem_base"):
            Settings()


def test_types_and_statuses_are_distinct() -> None:
    assert len({kind.kind for kind in KINDS}) == len(KINDS)
    assert len({kind.status for kind in KINDS if kind is not AppError}) == len(KINDS) - 1 + (
        errors.Unavailable.status == AppError.status
    )


def test_members_and_errors_are_added_and_the_rest_is_not_overwritten() -> None:
    error = Conflict("No.", kind="data-loss", errors=[{"pointer": "/a"}], counts={"unknown": 2})
    assert error.document() == {
        "type": "urn:lethe:problems/data-loss",
        "title": Conflict.title,
        "status": 409,
        "detail": "No.",
        "errors": [{"pointer": "/a"}],
        "counts": {"unknown": 2},
    }


def test_a_401_names_the_scheme() -> None:
    assert Unauthorized("No.").headers == {"WWW-Authenticate": "Bearer"}
