"""Models and datasets by name, and versions by the id that events and webhooks give them."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import select

from app.core import db
from app.core.tables import Delivery, Model, Webhook
from lethe import Client
from tests.helpers import as_other, is_problem
from tests.support import QUICK_MODEL, QUICK_POLICY
from tests.trained import Trained


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


def test_a_shared_name_is_refused_with_the_ids_and_a_purged_models_name_is_free(trained: Trained) -> None:
    account = trained.account
    twin = account.post("/v1/models", {"name": "m", "dataset": "digits", **QUICK_MODEL})["id"]
    said = is_problem(account.http.get("/v1/models/m"), 409, "name-shared")["detail"]
    assert trained.model in said
    assert twin in said
    account.post(f"/v1/models/{twin}:purge")
    assert account.get("/v1/models/m")["id"] == trained.model


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


def test_the_client_names_a_deletion_by_ids(shared: Trained) -> None:
    account = shared.account
    with Client("http://test", account.http.headers["Authorization"].removeprefix("Bearer ")) as calls:
        calls._calls._http = account.http  # type: ignore[attr-defined]
        found = calls.requests.preview("digits", shared.ids[:2], model="m")
    assert found["models"] == [shared.model]
