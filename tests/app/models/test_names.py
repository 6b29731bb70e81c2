"""Models and datasets by name, and versions by the id that events and webhooks give them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import select

from app.core import db
from app.core.tables import Delivery, Model, Webhook
from lethe import Client
from lethe.errors import ProblemError
from tests.helpers import as_other, is_problem
from tests.support import QUICK_MODEL, QUICK_POLICY, Account
from tests.trained import Trained


@pytest.mark.validation
def test_a_name_stands_for_an_id(trained: Trained) -> None:
    account = trained.account
    assert account.get("/v1/models/m")["id"] == trained.model
    assert account.get("/v1/datasets/digits")["id"] == trained.dataset
    assert account.get("/v1/models/m/versions/1")["model"] == trained.model
    body = {"name": "an other: one", "dataset": "digits", **QUICK_MODEL, "policy": QUICK_POLICY}
    made = account.post("/v1/models", body | {"name": "an other one"})
    assert made["dataset"] == trained.dataset
    job = account.post("/v1/models/an%20other%20one:train")
    assert job["model"] == made["id"]


@pytest.mark.validation
def test_a_shared_name_is_refused_with_the_ids_and_a_purged_models_name_is_free(trained: Trained) -> None:
    account = trained.account
    twin = account.post("/v1/models", {"name": "m", "dataset": "digits", **QUICK_MODEL})["id"]
    said = is_problem(account.http.get("/v1/models/m"), 409, "name-shared")["detail"]
    assert trained.model in said
    assert twin in said
    account.post(f"/v1/models/{twin}:purge")
    assert account.get("/v1/models/m")["id"] == trained.model


@pytest.mark.validation
def test_another_tenants_name_says_nothing(trained: Trained) -> None:
    other = as_other(trained.account)
    assert trained.account.http.get("/v1/models/m", headers=other).status_code == 404
    assert trained.account.http.get("/v1/datasets/digits", headers=other).status_code == 404


def test_a_webhook_says_what_a_pipeline_needs_and_the_id_can_be_looked_up(trained: Trained) -> None:
    account = trained.account
    with account.database.write() as session:
        tenant = session.get_one(Model, trained.model).tenant_id
        hook = Webhook(id="whk_1", tenant_id=tenant, url="https://example.com", events=["version.*"], secret="whsec_")
        hook.created_at = db.now(session)
        session.add(hook)
    trained.forget(trained.ids[:2])
    with account.database.read() as session:
        bodies = [json.loads(delivery.body) for delivery in session.scalars(select(Delivery).order_by(Delivery.id))]
    (told,) = [body["data"] for body in bodies if body["type"] == "version.unlearned"]
    version = account.get(f"/v1/versions/{told['id']}")
    assert told == {
        "id": version["id"],
        "model": trained.model,
        "name": "m",
        "number": 2,
        "digest": version["digest"],
        "where": f"{trained.where}/versions/2",
        "verdict": account.get(f"{trained.where}/versions/2/audit")["report"]["judgement"]["verdict"],
    }
    assert version["number"] == 2
    assert account.http.get(f"/v1/versions/{told['id']}", headers=as_other(account)).status_code == 404
    events: Any = account.get("/v1/events")["items"] if account.http.get("/v1/events").is_success else []
    assert not any("name" in event.get("data", {}) for event in events), "names stay out of the log"


def calls_of(trained: Trained) -> Client:
    calls = Client("http://test", trained.account.http.headers["Authorization"].removeprefix("Bearer "))
    calls._calls._http = trained.account.http  # type: ignore[attr-defined]
    return calls


def test_a_deletion_names_its_dataset_and_model(trained: Trained) -> None:
    account = trained.account
    calls = calls_of(trained)
    assert calls.requests.preview("digits", trained.ids[:2], model="m")["models"] == [trained.model]
    key = {"Idempotency-Key": "one"}
    body = {"dataset": "digits", "model": "m", "sample_ids": trained.ids[:2]}
    made = account.http.post("/v1/deletion-requests", json=body, headers=key).json()
    assert (made["dataset"], made["model"]) == (trained.dataset, trained.model)
    lines = [{"dataset": "digits", "sample_ids": trained.ids[2:3]}, {"dataset": "none", "sample_ids": ["a"]}]
    taken, refused = calls.requests.import_lines(lines)
    assert (taken["status"], refused["status"]) == (202, 404)
    # A name that has become ambiguous: what was accepted under a key is still the reply to it.
    account.post("/v1/models", {"name": "m", "dataset": "digits", **QUICK_MODEL})
    again = account.http.post("/v1/deletion-requests", json=body, headers=key)
    assert again.json()["id"] == made["id"]
    body["sample_ids"] = trained.ids[4:5]
    assert (
        trained.model in is_problem(account.http.post("/v1/deletion-requests", json=body), 409, "name-shared")["detail"]
    )
    is_problem(account.http.post("/v1/deletion-requests", json=body | {"model": "nobody"}), 404, "not-found")
    other = as_other(account)
    is_problem(account.http.post("/v1/deletion-requests", json=body, headers=other), 404, "not-found")


def test_lists_are_filtered_by_name(trained: Trained) -> None:
    account = trained.account
    trained.forget(trained.ids[:2])

    def ids(where: str, **filters: Any) -> list[str]:
        return [item["id"] if "id" in item else item["request"] for item in account.get(where, **filters)["items"]]

    for where in ("/v1/jobs", "/v1/deletion-requests", "/v1/receipts"):
        assert ids(where, model="m") == ids(where, model=trained.model) != []
        is_problem(account.http.get(where, params={"model": "nobody"}), 404, "not-found")
    other = as_other(account)
    for where in ("/v1/jobs", "/v1/deletion-requests", "/v1/models"):
        assert ids(where, dataset="digits") == ids(where, dataset=trained.dataset) != []
        assert account.http.get(where, params={"dataset": "digits"}, headers=other).status_code == 404


@pytest.mark.validation
def test_carried_data_name_their_model(account: Account) -> None:
    external = {"name": "external", "params": {"classes": 2, "shape": [8, 8, 1]}}
    account.post("/v1/datasets", {"name": "theirs", "source": external})
    policy = QUICK_POLICY | {"remain": "none", "escalation": []}
    model = account.post("/v1/models", {"name": "of them", "dataset": "theirs", **QUICK_MODEL, "policy": policy})
    made = account.post("/v1/datasets", {"name": "x", "source": {"name": "upload"}, "carried_for": "of them"})
    assert made["carried_for"] == model["id"]


@pytest.mark.parametrize("name", ["m?b", "m#b", "../models/m", "m:train", "what%3F", "a b", "déjà vu"])
def test_the_client_asks_for_nothing_else_than_it_was_told(shared: Trained, name: str) -> None:
    """A name is a part of an address: no character of it may end the address and mean the model `m`."""
    calls = calls_of(shared)
    for call in (calls.models.get, calls.models.roll_back, calls.models.erasable):
        with pytest.raises(ProblemError) as refused:
            call(name)
        assert refused.value.status in (404, 405, 422)
    with pytest.raises(ProblemError):
        calls.versions.get(name, 1)
