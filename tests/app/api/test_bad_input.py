"""Bodies that do not fit: a 422 that says where and why, never what was sent; never a 500, and nothing stored."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app import catalog
from app.api.http import patterns
from app.main import create_app
from tests.helpers import PARQUET, counts, is_problem
from tests.support import QUICK_MODEL, Account
from tests.trained import Trained

SECRET = "secret-sample-id"
NOWHERE = "dst_" + "0" * 26
JSON = {"Content-Type": "application/json"}


def refused(account: Account, path: str, body: Any) -> dict[str, Any]:
    before = counts(account.database)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = account.http.post(path, content=content, headers={**JSON, "Idempotency-Key": "k"})
    document = is_problem(response, 422, "schema")
    assert SECRET not in response.text
    assert all({"in", "pointer", "detail"} <= fault.keys() for fault in document["errors"])
    assert counts(account.database) == before
    return document


# One thing wrong for every kind of the catalog, and the words that must name the parameter.
WRONG = [
    ("methods", "amun", {"epochs": 0}, "epochs"),
    ("methods", "amun", {"learning_rate": "fast"}, "learning_rate"),
    ("methods", "amun", {"learning_rate": float("nan")}, "learning_rate"),
    ("methods", "amun", {"momentum": 1.0}, "momentum"),
    ("methods", "amun", {"fine_tuning_set": "everything"}, "fine_tuning_set"),
    ("methods", "retrain", {"epochs": 3}, "Extra"),
    ("attacks", "pgd_l2", {"steps": 10**30}, "steps"),
    ("attacks", "pgd_l2", {"epsilon": -0.1}, "epsilon"),
    ("audits", "rmia", {"margin": 0.5}, "margin"),
    ("audits", "rmia", {"gamma": float("inf")}, "gamma"),
    ("architectures", "small_cnn", {"width": 513}, "width"),
    ("architectures", "small_cnn", {"width": 8.5}, "width"),
    ("recipes", "sgd", {"batch_size": None}, "batch_size"),
    ("recipes", "sgd", {"schedule": "warm"}, "schedule"),
    ("sources", "digits", {"noise": float("nan")}, "noise"),
    ("sources", "digits", {"noise": 1e999}, "noise"),
    ("sources", "digits", {"seed": 2**31}, "seed"),
    ("sources", "digits", {"seed": -1}, "seed"),
    ("sources", "upload", {"holdout_fraction": 1.0}, "holdout_fraction"),
    ("sources", "torchvision", {"dataset": "../CIFAR10"}, "dataset"),
    ("sources", "torchvision", {"options": {"size": float("nan")}}, "options"),
    ("sources", "torchvision", {"options": {"size": 10**400}}, "options"),
    ("sources", "torchvision", {"options": {"split": "a\x00b"}}, "options"),
    ("sources", "torchvision", {"options": {"a\x00b": 1}}, "options"),
    ("sources", "torchvision", {"options": {SECRET: []}}, "options"),
]


def place(kind: str, choice: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Where a choice of that kind is sent, in a body that is right otherwise."""
    if kind == "sources":
        return "/v1/datasets", {"name": "n", "source": choice}
    body: dict[str, Any] = {"name": "n", "dataset": NOWHERE, "architecture": {"name": "small_cnn"}}
    names = {"methods": "method", "attacks": "attack", "audits": "audit"}
    if kind == "probes":
        return "/v1/models", body | {"policy": {"probes": [choice]}}
    if kind in names:
        return "/v1/models", body | {"policy": {names[kind]: choice}}
    return "/v1/models", body | {kind.removesuffix("s"): choice}


@pytest.mark.parametrize(("kind", "name", "params", "word"), WRONG)
def test_parameters_outside_their_schema(
    shared: Trained, kind: str, name: str, params: dict[str, Any], word: str
) -> None:
    path, body = place(kind, {"name": name, "params": params})
    assert word in refused(shared.account, path, body)["errors"][0]["detail"]


def test_every_kind_of_the_catalog_refuses_unknown_names_and_keys_without_repeating_them(
    shared: Trained,
) -> None:
    for kind, entries in catalog.KINDS.items():
        path, body = place(kind, {"name": SECRET})
        assert "no such name" in refused(shared.account, path, body)["errors"][0]["detail"]
        for name in entries:
            path, body = place(kind, {"name": name, "params": {SECRET: 1}})
            refused(shared.account, path, body)
            path, body = place(kind, {"name": name, SECRET: 1})
            refused(shared.account, path, body)
            path, body = place(kind, {"name": name, "params": [SECRET]})
            refused(shared.account, path, body)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/datasets", {"name": "n", "source": {"name": "upload"}, SECRET: 1}),
        ("/v1/datasets", {"name": "n"}),
        ("/v1/datasets", {"name": "a\x00b", "source": {"name": "upload"}}),
        ("/v1/datasets", {"name": "a\nb", "source": {"name": "upload"}}),
        ("/v1/datasets", {"name": "\x7f", "source": {"name": "upload"}}),
        ("/v1/datasets", {"name": "x" * 201, "source": {"name": "upload"}}),
        ("/v1/datasets", {"name": 5, "source": {"name": "upload"}}),
        ("/v1/datasets", {"name": "\ud800", "source": {"name": "upload"}}),
        ("/v1/datasets", {"name": "n", "source": {"name": "digits", "params": {"\ud800": 1}}}),
        ("/v1/datasets", {"name": "n", "source": {"name": "upload\x00"}}),
        ("/v1/datasets", [SECRET]),
        ("/v1/datasets", SECRET),
        ("/v1/datasets", None),
        ("/v1/deletion-requests", {"dataset": f"{SECRET}\n", "sample_ids": ["a"]}),
        ("/v1/deletion-requests", {"dataset": "x" * 201, "sample_ids": ["a"]}),
        ("/v1/deletion-requests", {"dataset": NOWHERE, "model": "", "sample_ids": ["a"]}),
        ("/v1/deletion-requests", {"dataset": NOWHERE, "sample_ids": SECRET}),
        ("/v1/deletion-requests", {"dataset": NOWHERE, "sample_ids": [{SECRET: 1}]}),
        ("/v1/deletion-requests", {"dataset": NOWHERE, "sample_ids": [SECRET, None]}),
        ("/v1/deletion-requests", {"dataset": NOWHERE, "sample_ids": ["a"], "basis": "\x00"}),
        ("/v1/deletion-requests", {"dataset": NOWHERE, "sample_ids": ["a"], "jurisdiction": SECRET}),
        ("/v1/deletion-requests", {"dataset": NOWHERE, "sample_ids": ["a"], "allow_data_loss": SECRET}),
        ("/v1/models", {"name": "n", "dataset": NOWHERE, "architecture": {"name": "small_cnn"}, "policy": SECRET}),
        (
            "/v1/models",
            {
                "name": "n",
                "dataset": NOWHERE,
                "architecture": {"name": "small_cnn"},
                "policy": {"when": {"mode": SECRET}},
            },
        ),
        (
            "/v1/models",
            {
                "name": "n",
                "dataset": NOWHERE,
                "architecture": {"name": "small_cnn"},
                "policy": {"method": {"name": "retrain"}, "remain": "none"},
            },
        ),
    ],
)
def test_bodies_outside_their_schema(shared: Trained, path: str, body: Any) -> None:
    refused(shared.account, path, body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b'{"name": "\xff"}',
        b"[" * 200_000,
        b'{"name": ' + b"9" * 5000 + b"}",
        b'{"name": "n", "source": {"name": "upload"}} x',
    ],
)
def test_bytes_that_are_no_json(shared: Trained, body: bytes) -> None:
    refused(shared.account, "/v1/datasets", body)


def test_pointers_lead_into_the_body_that_was_sent(shared: Trained) -> None:
    found = refused(
        shared.account,
        f"{shared.where}/versions",
        {"digest": "sha256:" + "0" * 64, "trained_on": ["a", 5]},
    )
    assert {fault["pointer"] for fault in found["errors"]} <= {"/trained_on", "/trained_on/1"}
    found = refused(shared.account, "/v1/deletion-requests", {"dataset": NOWHERE, "sample_ids": ["a", 5]})
    assert [fault["pointer"] for fault in found["errors"]] == ["/sample_ids/1"]


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("/v1/jobs", {"page_size": 0}),
        ("/v1/jobs", {"page_size": 1001}),
        ("/v1/jobs", {"page_size": 10**40}),
        ("/v1/jobs", {"page_token": "x" * 401}),
        ("/v1/jobs", {"state": "sleeping"}),
        ("/v1/jobs", {"kind": "\x00"}),
        ("/v1/jobs", {"model": "mdl_\n"}),
        ("/v1/jobs", {"stat": "failed"}),
        ("/v1/models", {"page_size": 5, "foo": "1"}),
        ("/v1/deletion-requests/del_" + "0" * 26, {"verbose": "1"}),
        ("/v1/datasets/" + "x" * 201, {}),
        ("/v1/models/a%0Ab", {}),
        ("/v1/jobs/job_" + "0" * 26 + "%00", {}),
        ("/v1/jobs/job_" + "0" * 26 + "%0A", {}),
    ],
)
def test_queries_and_paths_outside_their_schema(shared: Trained, path: str, params: dict[str, Any]) -> None:
    is_problem(shared.account.http.get(path, params=params), 422, "schema")


def test_unknown_paths_and_methods_are_problems_too(shared: Trained) -> None:
    nothing = is_problem(shared.account.http.get("/v1/nothing"), 404, "not-found")
    assert "/docs" in nothing["detail"]
    response = shared.account.http.delete("/v1/datasets")
    assert response.status_code == 405
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["allow"]


def test_a_json_body_over_the_limit_is_413_and_an_upload_is_not_held_to_it(shared: Trained) -> None:
    settings = shared.account.settings.model_copy(update={"max_json_bytes": 2048, "max_upload_bytes": 8192})
    with TestClient(create_app(settings), raise_server_exceptions=False) as http:
        http.headers.update(shared.account.http.headers)
        body = {"dataset": shared.dataset, "sample_ids": ["x" * 200] * 20}
        is_problem(http.post("/v1/deletion-requests", json=body), 413, "too-large")

        def pieces(count: int) -> Any:
            return (b"x" * 512 for _ in range(count))

        is_problem(http.post("/v1/deletion-requests", content=pieces(20), headers=JSON), 413, "too-large")
        is_problem(http.put(f"{shared.where}/policy", content=b"x" * 4096, headers=JSON), 413, "too-large")
        is_problem(http.put(f"{shared.where}/aliases/a", content=pieces(20), headers=JSON), 413, "too-large")
        for name in ("content", "checkpoint"):  # as the ends of the paths that take files
            is_problem(http.put(f"{shared.where}/aliases/{name}", content=pieces(20), headers=JSON), 413, "too-large")
        made = http.post("/v1/datasets", json={"name": "n", "source": {"name": "upload"}}).json()["id"]
        where, headers = f"/v1/datasets/{made}/content", {"Content-Type": PARQUET}
        is_problem(http.put(where, content=b"x" * 4096, headers=headers), 422, "dataset-content")
        is_problem(http.put(where, content=pieces(8), headers=headers), 422, "dataset-content")
        is_problem(http.put(where, content=b"x" * 8193, headers=headers), 413, "too-large")
        is_problem(http.put(where, content=pieces(17), headers=headers), 413, "too-large")


@pytest.mark.validation
def test_what_a_database_cannot_store_is_refused_before_it_is_asked(account: Account) -> None:
    """PostgreSQL takes neither NUL in text nor NaN in JSON."""
    body = {"name": "n", "dataset": NOWHERE, **QUICK_MODEL, "policy": {"utility_floor": float("nan")}}
    refused(account, "/v1/models", body)
    for options in ({"a": "b\x00"}, {"b\x00": "a"}, {"a": float("nan")}, {"a": float("-inf")}):
        source = {"name": "torchvision", "params": {"options": options}}
        refused(account, "/v1/datasets", {"name": "n", "source": source})
    refused(account, "/v1/deletion-requests", {"dataset": NOWHERE, "sample_ids": ["a\x00"]})


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("sample_ids", "/sample_ids"),  # a word of the API, where it does not belong
        ("datasett", "did you mean `dataset`?"),
        ("alice@example.org", ""),
        ("sample-" + SECRET, ""),
    ],
)
def test_an_unknown_key_is_named_only_by_words_of_the_api(shared: Trained, key: str, shown: str) -> None:
    body = {"name": "n", "source": {"name": "upload"}, key: 1}
    response = shared.account.http.post("/v1/datasets", json=body)
    (fault,) = is_problem(response, 422, "schema")["errors"]
    assert shown in fault["pointer"] + fault["detail"]
    if not shown.startswith("/"):
        assert fault["pointer"] == ""
        assert key not in response.text


def test_a_body_with_very_many_faults_lists_the_first_hundred(shared: Trained) -> None:
    body = {"name": "n", "source": {"name": "upload"}} | {f"key-{n}": 1 for n in range(5_000)}
    faults = is_problem(shared.account.http.post("/v1/datasets", json=body), 422, "schema")["errors"]
    assert len(faults) == 100


def test_a_path_with_a_verb_is_not_taken_for_the_object(shared: Trained) -> None:
    http = shared.account.http
    for path in (f"{shared.where}:train", "/v1/jobs/job_1:cancel", f"{shared.where}/versions/1:promote"):
        response = http.get(path)
        is_problem(response, 405, "method-not-allowed")
        assert response.headers["allow"] == "POST"
    assert http.delete("/v1/models").headers["allow"] == "GET, HEAD, POST"
    assert http.delete(f"{shared.where}/versions/1/checkpoint").headers["allow"] == "GET, HEAD, PUT"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("{where}:precompute", {"seed": False}),
        ("{where}:precompute", {"seed": "7"}),
        ("{where}:references", {"count": "4"}),
        ("{where}:train", {"compare_only": 1}),
        ("{where}:train", {"compare_only": "yes"}),
        ("/v1/api-keys", {"name": "n", "scopes": ["read"], "expires_in_days": True}),
        ("/v1/datasets", {"name": "n", "source": {"name": "digits", "params": {"noise": "0.3"}}}),
        ("/v1/datasets", {"name": "n", "source": {"name": "digits", "params": {"seed": True}}}),
        ("{where}/policy", {"grace_seconds": "7"}),
        ("{where}/policy", {"when": {"mode": "batch", "max_requests": True}}),
    ],
)
def test_values_of_another_type_are_not_taken_for_what_they_resemble(
    shared: Trained, path: str, body: dict[str, Any]
) -> None:
    method = "PUT" if path.endswith("/policy") else "POST"
    is_problem(shared.account.http.request(method, path.format(where=shared.where), json=body), 422, "schema")


@pytest.mark.parametrize(
    ("method", "path", "place", "detail"),
    [
        ("GET", "/v1/webhooks/whk_1", "path", "must be the id of a webhook: `whk_` and 26 characters"),
        ("GET", "/v1/jobs/del_", "path", "must be the id of a job: `job_` and 26 characters"),
        ("GET", "/v1/jobs?model=%0A", "query", "must be a text without control characters"),
        ("POST", "/v1/models", "body", "must be a text without control characters"),
        ("GET", "/v1/models/a%0A", "path", "must be the id of a model (`mdl_` and 26 characters), or its name"),
        (
            "GET",
            "/v1/jobs?created_after=today",
            "query",
            "must be an RFC 3339 time with a zone, such as `2026-03-01T00:00:00Z`",
        ),
    ],
)
@pytest.mark.validation
def test_what_a_text_must_look_like_is_said_in_words(
    account: Account, method: str, path: str, place: str, detail: str
) -> None:
    body = {"name": "n", **QUICK_MODEL, "dataset": "a\nb"} if method == "POST" else None
    document = is_problem(account.http.request(method, path, json=body), 422, "schema")
    (fault,) = document["errors"]
    assert (fault["in"], fault["code"], fault["detail"]) == (place, "string_pattern_mismatch", detail)


@pytest.mark.parametrize("wrong", ["small_cnn", 1, ["small_cnn"], None])
@pytest.mark.parametrize("member", ["architecture", "recipe", "policy"])
@pytest.mark.validation
def test_what_is_to_be_an_object_is_said_to_be_one(account: Account, member: str, wrong: Any) -> None:
    body = {"name": "n", "dataset": NOWHERE, "architecture": {"name": "small_cnn"}, member: wrong}
    (fault,) = refused(account, "/v1/models", body)["errors"]
    assert (fault["pointer"], fault["detail"]) == (f"/{member}", "must be an object: `{…}`")


@pytest.mark.validation
def test_every_pattern_of_the_api_has_its_words(account: Account) -> None:
    def found(node: Any) -> set[str]:
        if isinstance(node, list):
            return set().union(*map(found, node))
        if not isinstance(node, dict):
            return set()
        own = {node["pattern"]} if isinstance(node.get("pattern"), str) else set()
        return own.union(*map(found, node.values()))

    assert found(account.get("/v1/openapi.json")) == patterns.WORDS.keys()
