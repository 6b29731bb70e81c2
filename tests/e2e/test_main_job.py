"""The main job, from the request to the audited checkpoint: the same test on both modes, real processes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from lethe import Client, ProblemError
from tests.conftest import POSTGRES, REDIS
from tests.support import QUICK_MODEL, QUICK_POLICY, embedded, production, scratch_database


@pytest.fixture(params=["embedded", pytest.param("production", marks=pytest.mark.services)])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Client]:
    if request.param == "embedded":
        with embedded(tmp_path / "data") as client:
            yield client
        return
    with scratch_database(POSTGRES) as url, production(tmp_path / "data", url, REDIS) as client:
        yield client


def test_a_deletion_becomes_an_audited_version_and_the_samples_are_erased(service: Client, tmp_path: Path) -> None:
    dataset = service.post("/v1/datasets", {"name": "digits", "source": {"name": "digits"}})
    service.jobs.wait(dataset["job"])
    body = {"name": "reader", "dataset": dataset["id"], **QUICK_MODEL, "policy": QUICK_POLICY}
    model = service.post("/v1/models", body)
    where = f"/v1/models/{model['id']}"
    trained = service.jobs.wait(service.post(f"{where}:train", {"seed": 1})["id"])
    service.jobs.wait(service.post(f"{where}:references", {"count": 4})["id"])
    items = service.pages(f"/v1/datasets/{dataset['id']}/samples", split="train", page_size=1000)
    ids = [item["id"] for item in items][::10]

    request = service.requests.create(dataset["id"], ids)
    assert request["status"] == "processing"
    comparison = {"exclude_request": request["id"], "compare_only": True}
    retrain = service.post(f"{where}:train", comparison)
    job = request["outcomes"][0]["job"]
    seen = list(service.jobs.follow(job))
    assert [data["state"] for data in seen][-1] == "succeeded"
    assert {"attack", "finetune", "audit", "publish"} <= {data["stage"] for data in seen}
    service.jobs.wait(retrain["id"])
    final = service.requests.wait(request["id"])
    assert final["status"] == "fulfilled"
    outcome = {"model": model["id"], "state": "purged", "job": job, "version": 2, "reason": None}
    (reached,) = final["outcomes"]
    assert reached == outcome | {"verdict": reached["verdict"], "forecast_at": None}
    assert reached["verdict"] in ("pass", "inconclusive")

    # The checkpoint: current, with its parent, and the bytes that its digest names.
    version = service.get(f"{where}/versions/2")
    assert (version["state"], version["parent"], version["origin"]) == ("current", 1, "unlearned")
    assert version["trained_samples"] == 898 - len(ids)
    target = tmp_path / "v2.safetensors"
    assert service.versions.download(model["id"], 2, target) == version["digest"]
    assert hashlib.sha256(target.read_bytes()).hexdigest() == version["digest"].removeprefix("sha256:")
    assert version["digest"] != trained["result"]["digest"]
    assert service.get(where)["current_version"] == 2

    # The audit: of exactly that file, with the exact retrain beside it, as JSON and as a page.
    document = service.get(f"{where}/versions/2/audit")
    assert document["report"]["checkpoint"] == version["digest"]
    assert document["report"]["adversarial"]["total"] == len(ids)
    assert document["report"]["judgement"]["verdict"] in ("pass", "inconclusive")
    assert document["retrained"]["measurement"]["ft_auc"]["positives"] == len(ids)
    page = service.versions.audit_page(model["id"], 2)
    assert page.startswith("<!doctype html>")
    assert document["report"]["judgement"]["verdict"] in page.lower()

    # The samples: gone from the listing, known as erased when they come again, with a receipt for each thing.
    left = {item["id"] for item in service.pages(f"/v1/datasets/{dataset['id']}/samples", page_size=1000)}
    assert left.isdisjoint(ids)
    with pytest.raises(ProblemError) as refused:
        service.requests.create(dataset["id"], ids[:1])
    assert refused.value.kind == "sample-erased"
    done = {receipt["subject"] for receipt in final["receipts"] if receipt["done_at"]}
    assert {"sample-bytes", "reference-columns", "adversarial-artifact"} <= done
    dated = [receipt for receipt in final["receipts"] if not receipt["done_at"]]
    assert {receipt["subject"] for receipt in dated} - {"database"} == {"superseded-checkpoint", "reference-pool"}
    assert all(receipt["due_at"] for receipt in dated)
