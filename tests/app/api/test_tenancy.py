"""Bodies, lists and keys of tenants; `test_foreign` has the paths."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from app.core import db
from app.core.tables import ApiKey
from tests.helpers import as_other, counts, is_problem, other_tenant
from tests.support import QUICK_MODEL, Account
from tests.trained import Trained


@pytest.fixture(scope="module")
def everything(shared: Trained) -> tuple[Trained, dict[str, str], dict[str, str]]:
    """Objects of one tenant, by the names that paths use; the key of another."""
    made = shared.delete(shared.ids[:2])
    ours = {"dataset": shared.dataset, "model": shared.model, "request": made["id"], "number": "1"}
    ours["job"] = made["outcomes"][0]["job"]
    return shared, ours, as_other(shared.account) | {"X-Request-Id": "the-same"}


def test_bodies_that_name_anothers_object_answer_as_for_an_absent_one(
    everything: tuple[Trained, dict[str, str], dict[str, str]],
) -> None:
    shared, ours, theirs = everything
    http = shared.account.http
    own = http.post(
        "/v1/datasets",
        json={"name": "own", "source": {"name": "digits", "params": {"seed": 9}}},
        headers=theirs,
    ).json()["id"]
    mine = http.post("/v1/models", json={"name": "m", "dataset": own, **QUICK_MODEL}, headers=theirs).json()["id"]
    shared.account.work()
    sample = shared.ids[:1]
    bodies: list[tuple[str, dict[str, Any], str, str]] = [
        ("/v1/models", {"name": "m", "dataset": ours["dataset"], **QUICK_MODEL}, "dataset", "dst"),
        ("/v1/deletion-requests", {"dataset": ours["dataset"], "sample_ids": sample}, "dataset", "dst"),
        ("/v1/deletion-requests", {"dataset": own, "model": ours["model"], "sample_ids": sample}, "model", "mdl"),
        (
            f"/v1/models/{mine}:train",
            {"exclude_request": ours["request"], "compare_only": True},
            "exclude_request",
            "del",
        ),
    ]
    for path, body, field, prefix in bodies:
        same = theirs | {"X-Request-Id": "the-same-for-both"}
        found = http.post(path, json=body, headers=same)
        missing = http.post(path, json=body | {field: f"{prefix}_{'0' * 26}"}, headers=same)
        is_problem(found, 404, "not-found")
        assert found.content == missing.content, path


def test_lists_of_another_tenant_are_its_own(shared: Trained) -> None:
    theirs = {"Authorization": f"Bearer {other_tenant(shared.account, 'ten_third')}"}
    for noun in ("datasets", "models", "deletion-requests", "jobs"):
        assert shared.account.get(f"/v1/{noun}")["items"]
        found = shared.account.http.get(f"/v1/{noun}", headers=theirs).json()
        assert found == {"items": [], "next_page_token": None}
    filtered = shared.account.http.get("/v1/jobs", params={"model": shared.model}, headers=theirs).json()
    assert filtered["items"] == []


# -- keys ------------------------------------------------------------------------------------------


def unauthorized(account: Account, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    account.http.headers.pop("Authorization", None)
    for path in ("/v1/catalog", "/v1/jobs", "/v1/datasets/dst_" + "0" * 26):
        response = account.http.get(path, headers=headers)
        is_problem(response, 401, "unauthorized")
        assert response.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.validation
def test_missing_and_wrong_keys_are_401(account: Account) -> None:
    good = account.http.headers["Authorization"]
    key_id, secret = good.removeprefix("Bearer lethe_").split("_", 1)
    for header in (
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic dXNlcjpwYXNz",
        "Bearer lethe_",
        "Bearer lethe__",
        f"Bearer lethe_{key_id}",
        f"Bearer lethe_{key_id}_",
        f"Bearer lethe_{key_id}_{secret}x",
        f"Bearer lethe_{key_id}_{secret[:-1]}",
        f"Bearer lethe_{'0' * 26}_{secret}",
        f"Bearer Lethe_{key_id}_{secret}",
        f"Bearer lethe_{key_id.upper()}_{secret}",
        f"Bearer lethe_{key_id}_{secret} x",
        "Bearer " + "a" * 5000,
    ):
        unauthorized(account, header)
    account.http.headers["Authorization"] = good
    assert account.http.get("/v1/jobs").status_code == 200
    assert account.http.get("/v1/jobs", headers={"Authorization": good.replace("Bearer", "bearer")}).is_success


@pytest.mark.validation
def test_bytes_that_are_no_text_in_a_key_are_401(account: Account) -> None:
    response = account.http.get("/v1/jobs", headers={b"Authorization": b"Bearer lethe_\xff\xfe_\xe9"})
    is_problem(response, 401, "unauthorized")


@pytest.mark.parametrize("column", ["expires_at", "revoked_at"])
def test_expired_and_revoked_keys_are_401(account: Account, column: str) -> None:
    with account.database.write() as session:
        past = db.now(session) - timedelta(seconds=1)
        session.execute(update(ApiKey).values({column: past}))
    unauthorized(account, account.http.headers["Authorization"])


def test_a_key_that_has_not_expired_yet_works(account: Account) -> None:
    with account.database.write() as session:
        session.execute(update(ApiKey).values(expires_at=db.now(session) + timedelta(minutes=1)))
    assert account.http.get("/v1/jobs").status_code == 200


@pytest.mark.validation
def test_a_refused_key_changes_nothing(account: Account) -> None:
    before = counts(account.database)
    response = account.http.post(
        "/v1/datasets",
        json={"name": "x", "source": {"name": "digits"}},
        headers={"Authorization": "Bearer lethe_x_y"},
    )
    is_problem(response, 401, "unauthorized")
    assert counts(account.database) == before
