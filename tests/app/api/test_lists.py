"""Every list: pages, filters, and that both hold to one tenant."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from itertools import product
from typing import Any

import pytest
from sqlalchemy import select

from app.core import db
from app.core.ids import new_id
from app.core.tables import (
    ApiKey,
    CertificateRow,
    DeletionRequest,
    Delivery,
    Job,
    Model,
    OutcomeRow,
    Receipt,
    Version,
    Webhook,
    Worker,
)
from app.deletions import views
from app.rules.states import Decision, JobState, Outcome, RequestStatus, request_status
from tests.helpers import as_other, is_problem, other_tenant
from tests.support import QUICK_MODEL, Account, Document
from tests.trained import Trained


def everything(account: Account, path: str, **filters: Any) -> list[Document]:
    """All items of a list, by small pages; checked to come in the order of one large page."""
    items: list[Document] = []
    token = None
    size = 300 if path.endswith("/samples") else 2
    while True:
        page = one_page(account, path, page_size=size, **filters, **({"page_token": token} if token else {}))
        assert len(page["items"]) <= size
        items += page["items"]
        token = page["next_page_token"]
        if token is None:
            break
        assert len(page["items"]) == size
    assert items[:1000] == one_page(account, path, page_size=1000, **filters)["items"]
    return items


def one_page(account: Account, path: str, **params: Any) -> Document:
    response = account.http.get(path, params=params)
    assert response.status_code == 200, response.text[:500]
    return response.json()


@pytest.fixture(scope="module")
def busy(shared: Trained) -> Trained:
    """Three deletions, one of them held, aliases, and a second model."""
    first = shared.forget(shared.ids[:3])
    assert first["status"] == "fulfilled"
    for alias in ("a", "b", "c"):
        put = shared.account.http.put(f"{shared.where}/aliases/{alias}", json={"version": 2})
        assert put.status_code == 200, put.text
    held = shared.delete(shared.ids[3:5])
    shared.account.post(f"/v1/deletion-requests/{held['id']}:hold", {"reason": "a lawsuit"})
    other = shared.account.post("/v1/models", {"name": "other", "dataset": shared.dataset, **QUICK_MODEL})
    shared.delete(shared.ids[5:7], model=other["id"], jurisdiction="ccpa")
    return shared


def lists(of: Trained) -> dict[str, dict[str, Any]]:
    """Every list of the API, and filters that it knows."""
    return {
        "/v1/datasets": {"state": "ready"},
        f"/v1/datasets/{of.dataset}/samples": {"split": "train"},
        "/v1/models": {"dataset": of.dataset},
        f"{of.where}/versions": {"state": "current"},
        f"{of.where}/versions/2/audits": {},
        f"{of.where}/aliases": {"version": 2},
        "/v1/deletion-requests": {"status": "held"},
        "/v1/jobs": {"kind": "train"},
        "/v1/webhooks": {"enabled": "true"},
        "/v1/api-keys": {"valid": "true"},
        "/v1/certificates": {},
        "/v1/receipts": {"done": "true"},
    }


def test_the_lists_of_this_test_are_all_lists_of_the_api(busy: Trained) -> None:
    paths = busy.account.get("/v1/openapi.json")["paths"]
    paged = {
        path
        for path, item in paths.items()
        if any(p["name"] == "page_token" for p in item.get("get", {}).get("parameters", []))
    }
    names = {busy.dataset: "{dataset}", busy.model: "{model}", "versions/2": "versions/{number}"}
    ours = {"/v1/webhooks/{webhook}/deliveries"}
    for path in lists(busy):
        for value, name in names.items():
            path = path.replace(value, name)
        ours.add(path)
    assert paged == ours
    collections = {path for path, item in paths.items() if "get" in item and path.endswith("s")}
    of_request = "/v1/deletion-requests/{request}"
    assert collections - paged == {
        "/v1/jobs/{job}/events",
        "/v1/log/entries",
        "/v1/log/keys",
        "/v1/workers",
        "/v1/datasets/{dataset}/canaries",  # one file
        "/v1/datasets/{dataset}/shards",
        "/metrics",
        f"{of_request}/notices",  # these have a largest number
        f"{of_request}/objects",
        f"{of_request}/papers",
        f"{of_request}/blast-radius",
        "/v1/certificates/{digest}/status",
        "/v1/compliance/figures",
        "/v1/compliance/rules",
        "/v1/compliance/remains",
    }


def test_a_page_token_is_good_for_its_own_query_only(busy: Trained) -> None:
    account = busy.account
    for path, filters in lists(busy).items():
        page = account.get(path, page_size=1)
        token = page["next_page_token"]
        if token is None:
            continue
        assert account.get(path, page_size=7, page_token=token)["items"][0] != page["items"][0]
        if filters:
            is_problem(account.http.get(path, params={**filters, "page_token": token}), 422, "page-token")
        elsewhere = "/v1/jobs" if path != "/v1/jobs" else "/v1/models"
        is_problem(account.http.get(elsewhere, params={"page_token": token}), 422, "page-token")


def test_the_lists_are_whole_by_pages_and_another_tenants_are_empty(busy: Trained) -> None:
    theirs = as_other(busy.account)
    for path, filters in lists(busy).items():
        everything(busy.account, path)
        everything(busy.account, path, **filters)
        found = busy.account.http.get(path, headers=theirs)
        if busy.model in path or busy.dataset in path:
            is_problem(found, 404, "not-found")
        elif path == "/v1/api-keys":
            assert [key["name"] for key in found.json()["items"]] == ["its key"]
        else:
            assert found.json()["items"] == []


# -- filters ---------------------------------------------------------------------------------------


def ids(items: list[Document]) -> set[str]:
    return {item["id"] for item in items}


def test_jobs_by_what_they_are_about(busy: Trained) -> None:
    account = busy.account
    jobs = everything(account, "/v1/jobs")
    request = next(r for r in everything(account, "/v1/deletion-requests") if r["status"] == "fulfilled")
    for name in ("dataset", "model", "kind", "state"):
        for value in {job[name] for job in jobs if job[name]}:
            found = everything(account, "/v1/jobs", **{name: value})
            assert ids(found) == {job["id"] for job in jobs if job[name] == value}
            assert found
    carried = {outcome["job"] for outcome in request["outcomes"]}
    purges = {job["id"] for job in jobs if job["request"] == request["id"]}
    assert carried
    assert purges
    assert ids(everything(account, "/v1/jobs", request=request["id"])) == carried | purges
    assert everything(account, "/v1/jobs", request="del_" + "0" * 26) == []


def test_models_versions_and_datasets(busy: Trained) -> None:
    account = busy.account
    assert len(everything(account, "/v1/models", dataset=busy.dataset)) == 2
    assert everything(account, "/v1/models", dataset="dst_" + "0" * 26) == []
    assert len(everything(account, "/v1/models", architecture="small_cnn")) == 2
    assert everything(account, "/v1/models", architecture="resnet18") == []
    current = everything(account, f"{busy.where}/versions", state="current")
    assert [version["number"] for version in current] == [2]
    trained = everything(account, f"{busy.where}/versions", origin="trained")
    assert [version["number"] for version in trained] == [1]
    assert ids(everything(account, "/v1/datasets", state="ready")) == {busy.dataset}
    assert everything(account, "/v1/datasets", state="failed") == []


def test_requests_by_model_date_and_clock(busy: Trained) -> None:
    account = busy.account
    path = "/v1/deletion-requests"
    found = everything(account, path)
    assert len(found) == 3
    only = next(r for r in found if r["model"])
    assert ids(everything(account, path, model=only["model"])) == {only["id"]}
    assert len(everything(account, path, model=busy.model)) == 2
    assert {r["status"] for r in everything(account, path, decision="held")} == {"held"}
    latest = max(r["due_at"] for r in found)
    assert ids(everything(account, path, due_before=latest)) == {r["id"] for r in found if r["due_at"] < latest}
    assert everything(account, path, due_before="0001-01-01T00:00:00Z") == []
    assert len(everything(account, path, due_before="9999-12-31T23:59:59Z")) == 3


@pytest.mark.parametrize(
    "path", ["/v1/jobs", "/v1/models", "/v1/datasets", "/v1/deletion-requests", "/v1/certificates"]
)
def test_a_range_of_times(busy: Trained, path: str) -> None:
    account = busy.account
    early, late = "2001-01-01T00:00:00Z", "2900-01-01T00:00:00+02:00"
    assert everything(account, path, created_after=early, created_before=late) == everything(account, path)
    assert everything(account, path, created_before=early) == []
    assert everything(account, path, created_after=late) == []


@pytest.mark.parametrize(
    "text",
    [
        "yesterday",
        "2026-01-01",
        "2026-01-01T00:00:00",
        "2026-13-01T00:00:00Z",
        "2026-02-30T00:00:00Z",
        "1767225600",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
        "2026-01-01T00:00:00+99:99",
        "",
    ],
)
def test_what_is_no_time_is_refused(busy: Trained, text: str) -> None:
    is_problem(busy.account.http.get("/v1/jobs", params={"created_after": text}), 422, "schema")
    is_problem(busy.account.http.get("/v1/deletion-requests", params={"due_before": text}), 422, "schema")


def test_a_range_is_half_open(account: Account) -> None:
    dataset = account.post("/v1/datasets", {"name": "d", "source": {"name": "digits"}})["id"]
    made = [account.post("/v1/models", {"name": "m", "dataset": dataset, **QUICK_MODEL})["id"] for _ in range(3)]
    noon = datetime(2026, 3, 1, 12, 0, 0)  # noqa: DTZ001  (the database holds UTC)
    with account.database.write() as session:
        for hours, model in enumerate(made):
            session.get_one(Model, model).created_at = noon + timedelta(hours=hours)
    found = everything(
        account, "/v1/models", created_after="2026-03-01T12:00:00Z", created_before="2026-03-01T14:00:00Z"
    )
    assert [item["id"] for item in found] == [made[1], made[0]]
    after = everything(account, "/v1/models", created_after="2026-03-01T15:00:00.5+02:00")
    assert [item["id"] for item in after] == [made[2]]


# -- the status of a request -----------------------------------------------------------------------


WAITS = "queued, and its storage refuses"


def test_the_filter_by_status_finds_what_has_that_status(account: Account) -> None:
    """Every decision with sets of outcomes, purges that stand or fell, fulfilled or not."""
    dataset = account.post("/v1/datasets", {"name": "d", "source": {"name": "digits"}})["id"]
    models = [account.post("/v1/models", {"name": "m", "dataset": dataset, **QUICK_MODEL})["id"] for _ in range(2)]
    outcomes = [(), *((a,) for a in Outcome), *product(Outcome, Outcome)]
    purges = [
        (),
        (JobState.QUEUED,),
        (JobState.DEAD,),
        (JobState.DEAD, JobState.SUCCEEDED),
        (JobState.QUEUED, JobState.FAILED),
        (WAITS,),
    ]
    expected: dict[str, str] = {}
    unanswered: list[str] = []
    affecting: set[str] = set()
    with account.database.write() as session:
        now = db.now(session)
        tenant = session.get_one(Model, models[0]).tenant_id
        for number, (decision, states, purge, done) in enumerate(product(Decision, outcomes, purges, (None, now))):
            left = set(states) - {Outcome.PUBLISHED, Outcome.PURGED}
            if done is not None and (left or purge not in ((), (JobState.DEAD, JobState.SUCCEEDED))):
                continue  # what is fulfilled has nothing left to do: no such row is ever written
            request = DeletionRequest(
                id=new_id("del"),
                tenant_id=tenant,
                dataset_id=dataset,
                decision=decision,
                jurisdiction="gdpr",
                basis="b",
                sample_count=1,
                positions=b"",
                received_at=now,
                due_at=now,
                rule="r",
                fulfilled_at=done,
            )
            session.add(request)
            session.flush()
            rows = [
                OutcomeRow(request_id=request.id, model_id=m, state=s) for m, s in zip(models, states, strict=False)
            ]
            session.add_all(rows)
            for state in purge:
                session.add(
                    Job(
                        id=new_id("job"),
                        tenant_id=tenant,
                        kind="purge",
                        request_id=request.id,
                        lane=f"x{number}",
                        params={},
                        seed=0,
                        state=JobState.QUEUED if state == WAITS else state,
                        problem={"type": "x", "detail": "its storage refuses"} if state == WAITS else None,
                        created_at=now,
                        available_at=now,
                    )
                )
            late = done is not None and number // 2 % 2 == 0
            for due in (now + timedelta(days=1), now) if late else (now,):
                session.add(
                    Receipt(id=new_id("rcp"), request_id=request.id, subject="reference-pool", detail="d", due_at=due)
                )
            affecting |= {request.id} if states else set()
            failed = bool(purge) and purge[-1] in (*views.GIVEN_UP, WAITS)
            expected[request.id] = request_status(decision, states, done is not None, failed, late)
            if done is None and decision not in (Decision.REFUSED, Decision.CANCELLED):
                unanswered.append(request.id)
    assert set(expected.values()) == set(RequestStatus)
    seen = 0
    for status in RequestStatus:
        found = []
        page: Document = {"next_page_token": ""}
        while page["next_page_token"] is not None:
            token = {"page_token": page["next_page_token"]} if found else {}
            page = one_page(account, "/v1/deletion-requests", status=status.value, page_size=1000, **token)
            found += page["items"]
        assert {r["status"] for r in found} == {status.value}
        assert ids(found) == {key for key, value in expected.items() if value == status}
        seen += len(found)
        of_model = one_page(account, "/v1/deletion-requests", status=status.value, model=models[0], page_size=1000)
        assert ids(of_model["items"]) == ids(found) & affecting
    assert seen == len(expected)
    summary = account.get("/v1/compliance/summary")
    assert Counter(summary["by_status"]) == Counter(expected.values())
    assert summary["overdue_count"] == len(unanswered)
    assert summary["overdue"] == sorted(unanswered)[:1000]


# -- keys, webhooks, evidence ----------------------------------------------------------------------


def test_keys_that_work_and_keys_that_have_ended(account: Account) -> None:
    made = {
        name: account.post("/v1/api-keys", {"name": name, "scopes": ["read"], "expires_in_days": days})["id"]
        for name, days in (("lasting", None), ("dated", 5), ("expired", 5), ("revoked", None))
    }
    account.http.delete(f"/v1/api-keys/{made['revoked']}")
    with account.database.write() as session:
        session.get_one(ApiKey, made["expired"]).expires_at = db.now(session)
    assert {"lasting", "dated"} < {key["name"] for key in everything(account, "/v1/api-keys", valid="true")}
    assert {key["name"] for key in everything(account, "/v1/api-keys", valid="false")} == {"expired", "revoked"}
    found = account.get(f"/v1/api-keys/{made['dated']}")
    assert (found["name"], "token" in found) == ("dated", False)
    is_problem(account.http.get("/v1/api-keys/key_" + "0" * 26), 404, "not-found")


def test_webhooks_and_their_deliveries(account: Account) -> None:
    with account.database.write() as session:
        now = db.now(session)
        tenant = session.scalars(select(ApiKey.tenant_id)).first()
        hooks = [
            Webhook(id=new_id("whk"), tenant_id=tenant, url="https://x", secret="s", events=[], created_at=now)
            for _ in range(2)
        ]
        session.add_all(hooks)
        session.flush()
        for state in ("pending", "delivered", "delivered", "failed"):
            session.add(
                Delivery(id=new_id("msg"), webhook_id=hooks[0].id, kind="k", body="{}", state=state, created_at=now)
            )
    account.http.delete(f"/v1/webhooks/{hooks[1].id}")
    assert ids(everything(account, "/v1/webhooks", enabled="true")) == {hooks[0].id}
    assert ids(everything(account, "/v1/webhooks", enabled="false")) == {hooks[1].id}
    path = f"/v1/webhooks/{hooks[0].id}/deliveries"
    assert len(everything(account, path)) == 4
    assert len(everything(account, path, state="delivered")) == 2
    assert everything(account, f"/v1/webhooks/{hooks[1].id}/deliveries") == []


def test_receipts_done_and_to_come(busy: Trained) -> None:
    account = busy.account
    found = everything(account, "/v1/receipts")
    assert found
    for done in (True, False):
        some = everything(account, "/v1/receipts", done=str(done).lower())
        assert some == [receipt for receipt in found if (receipt["done_at"] is not None) == done]
        assert some
    request = found[0]["request"]
    listed = account.get(f"/v1/deletion-requests/{request}")["receipts"]
    assert len(everything(account, "/v1/receipts", request=request)) == len(listed) == len(found)
    dated = everything(account, "/v1/receipts", due_before="2900-01-01T00:00:00Z")
    assert {receipt["subject"] for receipt in dated} == {r["subject"] for r in found if r["due_at"]}
    of_model = everything(account, "/v1/receipts", model=busy.model)
    assert of_model == [receipt for receipt in found if receipt["model"] == busy.model]


def test_certificates_by_time_and_by_digest(busy: Trained) -> None:
    account = busy.account
    request = next(r for r in everything(account, "/v1/deletion-requests") if r["status"] == "fulfilled")["id"]
    with account.database.write() as session:
        tenant, now = session.get_one(DeletionRequest, request).tenant_id, db.now(session)
        for number in range(5):  # two of each second, and digests in another order than their times
            session.add(
                CertificateRow(
                    digest=f"sha256:{(7 - number) % 5:064x}",
                    tenant_id=tenant,
                    request_id=request,
                    receipts_done=number,
                    supersedes=None,
                    envelope='{"payload": "", "payloadType": "t", "signatures": []}',
                    issued_at=now + timedelta(seconds=number // 2),
                )
            )
    found = everything(account, "/v1/certificates", request=request)
    assert len(found) == 5
    assert [c["issued_at"] for c in found] == sorted((c["issued_at"] for c in found), reverse=True)
    assert account.get(f"/v1/certificates/{found[3]['digest']}")["payloadType"] == "t"
    is_problem(account.http.get(f"/v1/certificates/sha256:{'f' * 64}"), 404, "not-found")
    theirs = account.http.get(
        f"/v1/certificates/{found[3]['digest']}",
        headers={"Authorization": f"Bearer {other_tenant(account, 'ten_certs')}"},
    )
    is_problem(theirs, 404, "not-found")


def test_an_alias_never_means_a_purged_version(busy: Trained) -> None:
    account = busy.account
    path = f"{busy.where}/aliases/shadow"
    with account.database.write() as session:
        version = session.scalars(select(Version).where(Version.model_id == busy.model, Version.number == 1)).one()
        state, version.state = version.state, "purged"
    try:
        is_problem(account.http.put(path, json={"version": 1}), 409, "version-not-live")
        assert everything(account, f"{busy.where}/aliases", version=1) == []
    finally:
        with account.database.write() as session:
            session.get_one(Version, version.id).state = state


def test_what_still_needs_an_answer_comes_by_its_due_date(account: Account) -> None:
    dataset = account.digits()["id"]
    ids = iter(account.training_ids(dataset))
    made = [account.delete(dataset, [next(ids)])["id"] for _ in range(6)]
    account.post(f"/v1/deletion-requests/{made[0]}:refuse", {"reason": "a claim"})
    account.post(f"/v1/deletion-requests/{made[1]}:cancel", {"reason": "taken back"})
    account.post(f"/v1/deletion-requests/{made[2]}:hold", {"reason": "a court"})
    with account.database.write() as session:
        now = db.now(session)
        for days, request in zip((9, 3, 3, 1), made[2:], strict=True):
            row = session.get_one(DeletionRequest, request)
            row.due_at = now + timedelta(days=days)
    path, wanted = "/v1/deletion-requests", [made[5], *sorted(made[3:5]), made[2]]
    assert [row["id"] for row in account.get(path, unanswered=True)["items"]] == wanted
    paged, token = [], None
    while True:
        page = account.get(path, unanswered=True, page_size=1, **({"page_token": token} if token else {}))
        paged += [row["id"] for row in page["items"]]
        if not (token := page["next_page_token"]):
            break
    assert paged == wanted
    soon = f"{now + timedelta(days=4):%Y-%m-%dT%H:%M:%SZ}"
    assert [row["id"] for row in account.get(path, unanswered=True, due_before=soon)["items"]] == wanted[:3]
    held = account.http.get(path, params={"unanswered": True, "status": "held"}).json()["items"]
    assert [row["id"] for row in held] == [made[2]]
    assert len(account.get(path, unanswered=False)["items"]) == 6
    account.get(path, 422, unanswered=True, model="mdl_" + "0" * 26)


def test_live_workers_are_listed(account: Account) -> None:
    with account.database.write() as session:
        now = db.now(session)
        session.add(Worker(name="a:1", device="cpu", seen_at=now))
        session.add(Worker(name="b:1", device="cuda:0", kinds=["train"], device_memory=5, seen_at=now))
        session.add(Worker(name="gone", device="cpu", seen_at=now - timedelta(days=1)))
    found = account.get("/v1/workers")["workers"]
    assert [(row["name"], row["kinds"]) for row in found] == [("a:1", []), ("b:1", ["train"])]


def test_a_link_may_choose_the_form_of_the_register(account: Account) -> None:
    for form, media in (("csv", "text/csv"), ("json", "application/json")):
        reply = account.http.get("/v1/compliance/register", params={"form": form})
        assert reply.headers["content-type"].startswith(media)
        assert f'filename="register.{form}"' in reply.headers["content-disposition"]
