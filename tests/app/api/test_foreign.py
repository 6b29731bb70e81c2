"""Objects of another tenant: every operation and every page answers as for what does not exist, whoever asks."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi.routing import APIRoute
from sqlalchemy import select

from app.console import router as console
from app.core import db, keys, users
from app.core.tables import CertificateRow, Delivery, Tenant
from app.rules.roles import ROLES, SCOPES
from tests.app.cases.sealed import sweep
from tests.app.console.browsing import COOKIE, browser
from tests.helpers import SAFETENSORS, counts
from tests.trained import Trained

pytestmark = [pytest.mark.validation, pytest.mark.parametrize("trained", ["sqlite"], indirect=True)]
OTHER = "ten_other"
MOST_REFUSED = 0.2  # of the operations may ask for more than their empty body has, before they look for the object
TYPES = {
    "/v1/datasets/{dataset}/content": "application/vnd.apache.parquet",
    "/v1/datasets/{dataset}/shards/{number}": "application/vnd.apache.parquet",
    "/v1/models/{model}/versions/{number}/checkpoint": SAFETENSORS,
    "/v1/models/{model}/references": "application/x-npz",
}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/models/{model}/versions": {"digest": "sha256:" + "0" * 64, "trained_on": "train-split"},
    "/v1/models/{model}/policy": {},
    "/v1/models/{model}/aliases/{alias}": {"version": 1},
    "/v1/deletion-requests/{request}:refuse": {"ground": "other", "reason": "no"},
    "/v1/deletion-requests/{request}/notices": {"kind": "acknowledgement"},
    "/v1/certificates/{digest}:revoke": {"reason": "wrong"},
}
ONCE = re.compile(r'name="once" value="[^"]*"|Made <time.*')  # new on every page
PAGE_FIELDS = {"reason": "why", "ground": "other", "kind": "acknowledgement", "version": "1", "name": "other"}


@pytest.fixture
def ours(trained: Trained) -> dict[str, str]:
    """One object of each kind, by the names that paths use."""
    account = trained.account
    request = trained.forget(trained.ids[:20])
    where = f"/v1/deletion-requests/{request['id']}"
    account.http.put(f"{trained.where}/aliases/champion", json={"version": 2}).raise_for_status()
    paper = account.post(f"{where}/papers", {"kind": "letter", "name": "Brief.pdf", "content": "aGk="})
    version = account.get(f"{trained.where}/versions/2")
    sweep(account)
    hook = account.post("/v1/webhooks", {"url": "https://93.184.216.34/hook"})["id"]
    delivery = f"msg_{'1' * 26}"
    with account.database.write() as session:
        digest = session.scalars(select(CertificateRow.digest)).one()
        made = {"kind": "request.accepted", "body": "{}", "state": "failed", "created_at": db.now(session)}
        session.add(Delivery(id=delivery, webhook_id=hook, **made))
    return {
        "dataset": trained.dataset,
        "model": trained.model,
        "request": request["id"],
        "job": request["outcomes"][0]["job"],
        "number": "2",
        "version": version["id"],
        "alias": "champion",
        "audit": account.get(f"{trained.where}/versions/2/audits")["items"][0]["id"],
        "notice": account.post(f"{where}/notices", {"kind": "acknowledgement"})["id"],
        "paper": paper["id"],
        "webhook": hook,
        "delivery": delivery,
        "api_key": account.get("/v1/api-keys")["items"][0]["id"],
        "digest": digest,
    }


def absent(found: dict[str, str]) -> dict[str, str]:
    none = {name: re.sub(r"_[0-9a-z]{26}$", "_" + "0" * 26, text) for name, text in found.items()}
    return none | {"digest": "sha256:" + "0" * 64, "alias": "nothing", "number": "7"}


def test_every_operation_answers_every_scope_as_for_what_is_not_there(trained: Trained, ours: dict[str, str]) -> None:
    http, none = trained.account.http, absent(ours)
    document = trained.account.get("/v1/openapi.json")
    operations = [
        (method, path, set(re.findall(r"{(\w+)}", path)), operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]
    named = [each for each in operations if each[2] & ours.keys() and each[3].get("security") != []]
    unknown = {name for *_, names, _ in named for name in names} - ours.keys() - {"kind", "language"}
    assert not unknown, "an object that this test does not make"
    with trained.account.database.write() as session:
        session.add(Tenant(id=OTHER, name=OTHER, created_at=db.now(session)))
        session.flush()
        sets = [(scope,) for scope in SCOPES] + [SCOPES]
        tokens = [keys.create(session, OTHER, " ".join(each), scopes=each)[1] for each in sets]
    before = counts(trained.account.database)
    reached: set[str] = set()
    for token in tokens:
        theirs = {"Authorization": f"Bearer {token}", "X-Request-Id": "the-same", "If-Match": '"1"'}
        for method, path, _, operation in named:

            def call(
                ids: dict[str, str], method: str = method, path: str = path, theirs: dict[str, str] = theirs
            ) -> Any:
                sent: dict[str, Any] = {}
                if path in TYPES and method == "put":
                    sent = {"content": b"PAR1", "headers": {"Content-Type": TYPES[path]}}
                elif method in ("post", "put"):
                    sent = {"json": BODIES.get(path, {})}
                headers = {**theirs, **sent.pop("headers", {})}
                return http.request(
                    method, path.format(**ids, kind="completion", language="de"), headers=headers, **sent
                )

            found, missing = call(ours), call(none)
            assert found.status_code in (403, 404, 422, 428), (method, path, found.text)
            texts = [blanked(each.text, ids) for each, ids in ((found, ours), (missing, none))]
            assert (found.status_code, texts[0]) == (missing.status_code, texts[1]), (method, path)
            assert no_length(found.headers) == no_length(missing.headers), (method, path)
            if found.status_code == 404:
                reached.add(operation["operationId"])
    assert counts(trained.account.database) == before, "nothing was written"
    assert len(reached) > (1 - MOST_REFUSED) * len(named), {each[3]["operationId"] for each in named} - reached


def blanked(text: str, ids: dict[str, str]) -> str:
    for value in sorted(ids.values(), key=len, reverse=True):
        if len(value) > 5:
            text = text.replace(value, "…")
    return ONCE.sub("", text)


def difference(one: str, other: str) -> str:
    at = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
    return f"{one[at - 60 : at + 60]!r} or {other[at - 60 : at + 60]!r}"


def no_length(headers: Any) -> dict[str, str]:
    return {name: value for name, value in dict(headers).items() if name not in ("content-length", "set-cookie")}


@pytest.mark.parametrize("role", ROLES)
def test_every_page_and_form_answers_every_role_as_for_what_is_not_there(
    trained: Trained, ours: dict[str, str], role: str
) -> None:
    names = {"dataset_id": "dataset", "model_id": "model", "request_id": "request", "job_id": "job", "number": "number"}
    names |= {"notice_id": "notice", "paper_id": "paper", "webhook_id": "webhook", "key_id": "api_key"}
    names |= {"delivery_id": "delivery", "alias": "alias"}
    verbs = {"verb": ("extend", "hold", "cancel", "refuse", "retry", "rotate", "test", "revoke", "delete")}
    verbs |= {"what": ("train", "references", "audit")}
    account, none = trained.account, absent(ours)
    with account.database.write() as session:
        session.add(Tenant(id=OTHER, name=OTHER, created_at=db.now(session)))
    routes = [route for router in console.ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    tried = 0
    with browser(account.http.app, account.database, role, OTHER) as visit:
        visit.http.headers["X-Request-Id"] = "the-same"
        csrf = users.csrf_token(account.settings, visit.http.cookies[COOKIE])
        before = counts(account.database)
        for route in routes:
            wanted = set(re.findall(r"{(\w+)}", route.path))
            if not wanted & names.keys():
                continue
            assert wanted <= names.keys() | verbs.keys(), route.path
            choices = next((verbs[name] for name in wanted & verbs.keys()), ("",))
            for choice in choices:

                def call(
                    ids: dict[str, str], route: APIRoute = route, wanted: Any = wanted, choice: str = choice
                ) -> Any:
                    filled = {name: ids[names[name]] if name in names else choice for name in wanted}
                    path = route.path.format(**filled)
                    if "POST" in route.methods:
                        return visit.http.post(path, data={"csrf": csrf, **PAGE_FIELDS}, follow_redirects=False)
                    return visit.http.get(path, follow_redirects=False)

                found, missing = call(ours), call(none)
                assert found.status_code >= 400, (route.path, choice, found.text)
                texts = [blanked(each.text, ids) for each, ids in ((found, ours), (missing, none))]
                assert (found.status_code, texts[0]) == (missing.status_code, texts[1]), (
                    route.path,
                    choice,
                    difference(*texts),
                )
                tried += 1
        assert counts(account.database) == before
    assert tried > 40
