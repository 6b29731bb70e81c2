"""Another tenant's object answers exactly as an absent one, in every operation that the OpenAPI document names."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from app.core import db
from app.core.tables import ApiKey
from tests.helpers import SAFETENSORS, as_other, counts, is_problem, other_tenant
from tests.support import QUICK_MODEL, Account
from tests.trained import Trained

NOUNS = {"dataset": "dst", "model": "mdl", "request": "del", "job": "job"}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/models/{model}/versions": {"digest": "sha256:" + "0" * 64, "trained_on": "train-split"},
}
TYPES = {
    "/v1/datasets/{dataset}/content": "application/vnd.apache.parquet",
    "/v1/datasets/{dataset}/shards/{number}": "application/vnd.apache.parquet",
    "/v1/models/{model}/versions/{number}/checkpoint": SAFETENSORS,
    "/v1/models/{model}/references": "application/x-npz",
}


@pytest.fixture(scope="module")
def everything(shared: Trained) -> tuple[Trained, dict[str, str], dict[str, str]]:
    """Objects of one tenant, by the names that paths use; the key of another."""
    made = shared.delete(shared.ids[:2])
    ours = {"dataset": shared.dataset, "model": shared.model, "request": made["id"], "number": "1"}
    ours["job"] = made["outcomes"][0]["job"]
    return shared, ours, as_other(shared.account) | {"X-Request-Id": "the-same"}


def operations(shared: Trained) -> list[tuple[str, str]]:
    document = shared.account.get("/v1/openapi.json")
    found = [
        (method, path)
        for path, item in document["paths"].items()
        for method in item
        if set(re.findall(r"{(\w+)}", path)) & NOUNS.keys()
    ]
    assert len(found) >= 15
    return found


def test_every_operation_on_anothers_object_answers_as_on_an_absent_one(
    everything: tuple[Trained, dict[str, str], dict[str, str]],
) -> None:
    shared, ours, theirs = everything
    absent = {name: f"{prefix}_{'0' * 26}" for name, prefix in NOUNS.items()} | {"number": "1"}
    before = counts(shared.account.database)
    for method, path in [*operations(shared), ("head", "/v1/models/{model}/versions/{number}/checkpoint")]:
        if not set(re.findall(r"{(\w+)}", path)) <= ours.keys():
            continue  # nouns that this module makes none of

        def call(ids: dict[str, str], method: str = method, path: str = path) -> Any:
            body: dict[str, Any] = {}
            if method == "put" and path not in TYPES:
                body = {"json": BODIES.get(path, {}), "headers": theirs}
            elif method == "put":
                body = {"content": b"PAR1", "headers": {**theirs, "Content-Type": TYPES[path]}}
            elif method == "post":
                body = {"json": BODIES.get(path, {}), "headers": theirs}
            return shared.account.http.request(method, path.format(**ids), **({"headers": theirs} | body))

        found, missing = call(ours), call(absent)
        assert found.status_code in (404, 422), (method, path, found.text)
        assert (found.status_code, found.content) == (missing.status_code, missing.content), (method, path)
        assert dict(found.headers) == dict(missing.headers), (method, path)
        if found.status_code == 422:  # the operation asks for more than an empty body
            assert call(ours | {"number": "1"}).json()["type"].endswith("/schema"), (method, path)
    assert counts(shared.account.database) == before


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
