"""The service under a path of a proxy, and on hosts of IPv6."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from app.core.config import Settings
from app.main import create_app
from tests.support import Account
from tests.trained import Trained

STRIPPED = {"X-Forwarded-Prefix": "/tools/lethe/"}


@pytest.mark.validation
def test_addresses_in_replies_begin_with_what_the_proxy_has_stripped(account: Account) -> None:
    """As seen: `Location: /v1/…` led past the proxy, and the page at /docs to a document that was not there."""
    body = {"name": "digits", "source": {"name": "digits"}}
    key = {"Idempotency-Key": "one"}
    made = account.http.post("/v1/datasets", json=body, headers=STRIPPED | key)
    assert made.headers["location"] == f"/tools/lethe/v1/datasets/{made.json()['id']}"
    again = account.http.post("/v1/datasets", json=body, headers=key)
    assert again.headers["location"] == f"/v1/datasets/{made.json()['id']}", "as who asks comes"
    assert again.headers["idempotent-replayed"] == "true"
    servers = account.http.get("/v1/openapi.json", headers=STRIPPED).json()["servers"]
    assert servers[0] == {"url": "/tools/lethe"}, "the first is the one that clients take"
    assert account.http.get("/v1/openapi.json").json()["servers"][0]["url"] == "/"
    assert '"/tools/lethe/v1/openapi.json"' in account.http.get("/docs", headers=STRIPPED).text
    assert '"/v1/openapi.json"' in account.http.get("/docs").text


@pytest.mark.validation
def test_the_usual_deletion_has_its_address_too(trained: Trained) -> None:
    body = {"dataset": trained.dataset, "sample_ids": trained.ids[:2], "jurisdiction": "gdpr"}
    made = trained.account.http.post("/v1/deletion-requests", json=body, headers=STRIPPED)
    assert made.status_code == 202, made.text
    assert made.headers["location"] == f"/tools/lethe/v1/deletion-requests/{made.json()['id']}"


def test_pages_go_on_under_a_prefix(account: Account) -> None:
    for _ in range(3):
        account.post("/v1/api-keys", {"name": "k", "scopes": ["read"]})
    first = account.http.get("/v1/api-keys?page_size=2", headers=STRIPPED).json()
    token = first["next_page_token"]
    assert account.http.get(f"/v1/api-keys?page_size=2&page_token={token}", headers=STRIPPED).status_code == 200
    assert account.http.get(f"/v1/api-keys?page_size=2&page_token={token}").status_code == 200


@pytest.mark.parametrize(
    "told",
    ["//evil.example", "https://evil.example", "/a//b", "/a b", "/a\\b", "/v1", "/docs", "/console", "lethe", "/a?b",
     "/..", "/a/../b", "/%2e", "/", ""],
)  # fmt: skip
@pytest.mark.validation
def test_what_is_no_path_is_not_believed(account: Account, told: str) -> None:
    made = account.http.post(
        "/v1/api-keys", json={"name": "k", "scopes": ["read"]}, headers={"X-Forwarded-Prefix": told}
    )
    assert made.status_code == 201
    assert made.headers["location"].startswith("/v1/api-keys/")
    assert account.http.get("/v1/openapi.json", headers={"X-Forwarded-Prefix": told}).status_code == 200


@pytest.mark.parametrize("path", ["/lethe", "/lethe/"])
@pytest.mark.validation
def test_a_prefix_may_be_set_and_need_not_be_stripped(account: Account, path: str) -> None:
    settings = account.settings.model_copy(update={"root_path": Settings(root_path=path).root_path})
    with TestClient(create_app(settings)) as http:
        http.headers["Authorization"] = account.http.headers["Authorization"]
        for there in ("/lethe/v1/api-keys", "/v1/api-keys"):
            made = http.post(there, json={"name": "k", "scopes": ["read"]})
            assert made.headers["location"].startswith("/lethe/v1/api-keys/"), there
        for there in ("/lethe/readyz", "/readyz", "/lethe/healthz", "/lethe/docs", "/lethe/v1/openapi.json"):
            assert http.get(there).status_code == 200, there
        assert http.get("/lethexx/v1/models").status_code == 404


@pytest.mark.parametrize("path", ["lethe", "/v1", "//x", "/a b", "https://x/y", "/..", "/a/../b"])
def test_a_prefix_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="such as /lethe"):
        Settings(root_path=path)


@pytest.mark.validation
def test_hosts_of_ipv6_are_hosts(account: Account) -> None:
    assert account.http.get("/v1/models", headers={"Host": "[2001:db8::1]:8321"}).status_code == 200
