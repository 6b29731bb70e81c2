"""A plug-in or a library that one worker lacks keeps its jobs from that worker, and the job says what it waits for."""

from __future__ import annotations

import pytest

from app import jobs
from app.core import db
from app.core.tables import Need, Worker
from app.jobs.routing import Takes
from tests.support import QUICK_MODEL, QUICK_POLICY, Document
from tests.trained import Trained

TIMM = {"name": "timm", "params": {"name": "test_resnet"}}
HAS, LACKS = Takes(offers=frozenset({"architectures/timm", "methods/other"})), Takes(offers=frozenset())


def model(trained: Trained, **changes: object) -> str:
    body = {"name": "m", "dataset": trained.dataset, **QUICK_MODEL, "policy": QUICK_POLICY}
    return str(trained.account.post("/v1/models", body | changes)["id"])


def claimed(trained: Trained, takes: Takes) -> str | None:
    found = jobs.claim(trained.account.database, "w", 60, takes=takes)
    return found.id if found else None


def train(trained: Trained, thing: str) -> str:
    return str(trained.account.post(f"/v1/models/{thing}:train")["id"])


def test_a_job_goes_to_a_worker_that_has_what_its_model_names(trained: Trained) -> None:
    plain, needy = train(trained, model(trained)), train(trained, model(trained, architecture=TIMM))
    assert claimed(trained, LACKS) == plain
    assert claimed(trained, LACKS) is None
    assert claimed(trained, HAS) == needy


def test_the_job_says_what_it_waits_for(trained: Trained) -> None:
    account, job = trained.account, train(trained, model(trained, architecture=TIMM))

    def shown() -> Document:
        return account.get(f"/v1/jobs/{job}")

    def live(name: str, *offers: str) -> None:
        with account.database.write() as session:
            found = Worker(name=name, device="cpu", label="cpu", kinds=[], offers=list(offers))
            found.seen_at = db.now(session)
            session.add(found)

    live("plain")
    assert shown()["waiting_for"] == "a worker that takes train jobs and has architectures/timm: none is alive"
    live("with", "architectures/timm")
    assert shown()["waiting_for"] is None


def test_a_policy_may_need_more_than_its_model(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from app import catalog

    monkeypatch.setitem(catalog.METHODS, "mine", replace(catalog.METHODS["amun"], plugin=True))
    account, thing = trained.account, model(trained)
    where = f"/v1/models/{thing}/policy"
    assert account.http.put(where, json=QUICK_POLICY | {"method": {"name": "mine"}}).status_code == 200
    with account.database.read() as session:
        assert session.get(Need, (thing, "methods/mine")) is not None
    train(trained, thing)
    assert claimed(trained, HAS) is None
    assert account.http.put(where, json=QUICK_POLICY).status_code == 200
    assert claimed(trained, HAS) is not None


def test_an_audit_may_name_one_of_its_own(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from app import catalog

    monkeypatch.setitem(catalog.AUDITS, "mine", replace(catalog.AUDITS["rmia"], plugin=True))
    job = trained.account.post(f"{trained.where}:audit", {"audit": {"name": "mine"}})["id"]
    assert claimed(trained, LACKS) is None
    assert claimed(trained, Takes(offers=frozenset({"audits/mine"}))) == job
