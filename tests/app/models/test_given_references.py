"""References of the client's own, as log-odds with a membership matrix or as checkpoints; and few of the service's."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from app.core.tables import AuditEvent, Model, ReferenceRow
from app.models import pools
from app.models import records as models
from engine import references
from tests.helpers import is_problem
from tests.support import QUICK_POLICY
from tests.trained import Trained
from tests.worker.test_audits import audit

NPZ = {"Content-Type": "application/x-npz"}


def packed(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.fixture(scope="module")
def whole() -> dict[str, np.ndarray]:
    """Of the digits: ids, and two references of complementary halves that know what they saw."""
    random, size = np.random.default_rng(0), 1797
    membership = references.folds(2, size, 1)
    return {
        "ids": np.array([f"digits/{number:04d}" for number in range(size)]),
        "membership": membership,
        "log_odds": random.normal(2, 1, (2, size)) + 1.5 * membership,
    }


@pytest.fixture
def named(trained: Trained, whole: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`whole` with the dataset's own ids."""
    ids = [*trained.ids, *(s["id"] for s in _held_out(trained))]
    own = {name: values if name == "ids" else values[:, : len(ids)] for name, values in whole.items()}
    return own | {"ids": np.array(ids)}


def put(trained: Trained, content: bytes, query: str = "") -> Any:
    return trained.account.http.put(f"{trained.where}/references{query}", content=content, headers=NPZ)


def without_pool(trained: Trained) -> None:
    with trained.account.database.write() as session:
        session.query(ReferenceRow).delete()


def in_use(trained: Trained) -> pools.Pool:
    with trained.account.database.read() as session:
        kin = models.family(session.get_one(Model, trained.model))
        return pools.in_use(session, [kin])[kin]


SQLITE = pytest.mark.parametrize("trained", ["sqlite"], indirect=True)


@pytest.mark.parametrize("alike", [False, True])
def test_log_odds_with_a_membership_matrix_give_a_verdict(
    trained: Trained, named: dict[str, np.ndarray], alike: bool
) -> None:
    without_pool(trained)
    assert audit(trained, sample_ids=trained.ids[:200])["judgement"]["reason"] == "no references"
    said = put(trained, packed(**named), "?alike=true" if alike else "")
    assert said.status_code == 201, said.text
    assert said.json()["references"] == 2
    assert said.json()["samples"] == len(named["ids"])
    assert put(trained, packed(**named), "?alike=true" if alike else "").json() == said.json(), "sent twice: one pool"
    report = audit(trained, sample_ids=trained.ids[:200])
    design = "given" if alike else "given-other"
    assert report["references"] == {"models": 2, "signal": "softmax", "design": design, "pool_models": None}
    assert report["judgement"]["given_references"]
    assert report["judgement"]["interval"] is not None
    assert any("another architecture or recipe" in words for words in report["not_shown"]) != alike
    assert any("these alone" in words for words in report["not_shown"])
    page = trained.account.http.get(f"{trained.where}/versions/1/audit", headers={"Accept": "text/html"}).text
    assert "your own" in page
    with trained.account.database.read() as session:
        assert session.query(AuditEvent).filter(AuditEvent.kind == "references.given").count() == 1


@SQLITE
def test_logits_are_read_like_the_services_own(trained: Trained, named: dict[str, np.ndarray]) -> None:
    without_pool(trained)
    random = np.random.default_rng(3)
    logits = random.normal(0, 1, (2, len(named["ids"]), 10)).astype(np.float32)
    said = put(trained, packed(ids=named["ids"], membership=named["membership"], logits=logits))
    assert said.status_code == 201, said.text
    pool = in_use(trained)
    signal = references.from_file(trained.account.resources.blobs.fetch(pool.digests[1]))
    assert signal.logits.shape == (1797, 10)
    assert np.isfinite(signal.log_odds).sum() == len(named["ids"])
    assert audit(trained, sample_ids=trained.ids[:50])["references"]["signal"] == "taylor"
    few = put(trained, packed(ids=named["ids"], membership=named["membership"], logits=logits[:, :, :4]))
    is_problem(few, 422, "invalid")


def spoilt(named: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    found = {key: values.copy() for key, values in named.items()}
    match name:
        case "saw everything":
            found["membership"][1] = True
        case "saw nothing":
            found["membership"][0] = False
        case "seen by all":
            found["membership"][:, 7] = True
        case "not a number":
            found["log_odds"][1, 3:5] = np.nan
        case "beyond":
            found["log_odds"][0, 0] = 1e300
        case "other ids":
            found["ids"] = np.array([f"nobody-{number}" for number in range(len(found["ids"]))])
        case "twice":
            found["ids"][1] = found["ids"][0]
        case "fewer ids":
            found["ids"] = found["ids"][:-1]
        case "integers":
            found["membership"] = found["membership"].astype(np.int64)
        case "no log-odds":
            del found["log_odds"]
        case "strings":
            found["log_odds"] = found["log_odds"].astype(np.str_)
    return found


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("saw everything", "references-refused", "reference 1 saw every sample of the file, so it left none out"),
        ("saw nothing", "references-refused", "reference 0 saw no sample of the file"),
        ("seen by all", "references-refused", "entry 7 was seen by every reference"),
        ("not a number", "references-refused", "reference 1: 2"),
        ("beyond", "references-refused", "1 values that are no finite numbers"),
        ("other ids", "sample-unknown", ""),
        ("twice", "sample-duplicated", ""),
        ("fewer ids", "references-refused", "of the shape (references, ids)"),
        ("integers", "references-refused", "must hold booleans"),
        ("no log-odds", "references-refused", "either log_odds or logits"),
        ("strings", "references-refused", "floating-point"),
    ],
)
def test_what_cannot_be_a_pool_is_refused_in_words(
    shared: Trained, whole: dict[str, np.ndarray], name: str, kind: str, words: str
) -> None:
    ids = [*shared.ids, *(s["id"] for s in _held_out(shared))]
    own = {key: values if key == "ids" else values[:, : len(ids)] for key, values in whole.items()}
    refused = put(shared, packed(**spoilt(own | {"ids": np.array(ids)}, name)))
    is_problem(refused, 422, kind)
    assert words in refused.text
    assert "nobody-" not in refused.text, "no id is repeated"


def _held_out(trained: Trained) -> list[dict[str, Any]]:
    found = trained.account.get(f"/v1/datasets/{trained.dataset}/samples", split="holdout", page_size=1000)["items"]
    return list(found)


def test_other_bytes_are_refused(shared: Trained) -> None:
    is_problem(put(shared, b"PK\x03\x04 nothing"), 422, "references-refused")
    is_problem(put(shared, b"not an archive at all"), 422, "references-refused")
    other = shared.account.http.put(f"{shared.where}/references", content=b"{}", headers={"Content-Type": "text/plain"})
    is_problem(other, 415, "unsupported-media-type")


@SQLITE
def test_checkpoints_are_references_and_another_recipe_is_said_so(trained: Trained) -> None:
    """The comparisons of a request are models that left it out; a model of another recipe is evidence of its attack."""
    without_pool(trained)
    account = trained.account
    taken = []
    for recipe in ({"name": "sgd", "params": {"epochs": 1}}, {"name": "sgd", "params": {"epochs": 2}}):
        body = {"name": "other", "dataset": trained.dataset, "architecture": {"name": "small_cnn"}, "recipe": recipe}
        other = account.post("/v1/models", body)["id"]
        account.post(f"/v1/models/{other}:train", {})
        account.work()
        taken.append(account.get(f"/v1/models/{other}/versions/1")["id"])
    own = account.get(f"{trained.where}/versions/1")["id"]
    is_problem(
        account.http.post(f"{trained.where}:references", json={"versions": [own, taken[0]]}), 422, "references-refused"
    )
    is_problem(account.http.post(f"{trained.where}:references", json={"versions": [taken[0]] * 2}), 422, "schema")
    seen = account.http.post(f"{trained.where}:references", json={"versions": taken})
    refused = is_problem(seen, 422, "references-refused")
    assert refused["detail"].startswith("Each of these saw every sample")
    account.http.put(f"{trained.where}/policy", json=QUICK_POLICY | {"when": {"mode": "batch", "max_requests": 9}})
    made = trained.delete(trained.ids[:100])["id"]
    account.post(f"{trained.where}:train", {"exclude_request": made, "compare_only": True})
    account.work()
    [without] = account.get(f"{trained.where}/versions", origin="comparison")["items"]
    taken[1] = without["id"]
    job = account.post(f"{trained.where}:references", {"versions": taken}, 202)["id"]
    account.work()
    assert account.get(f"/v1/jobs/{job}")["result"]["references"] == 2
    report = audit(trained, sample_ids=trained.ids[:100])
    assert report["references"]["design"] == "given-other"
    assert report["candidate"]["ft_auc"]["positives"] == 100, "the comparison left them out"


@SQLITE
def test_two_complementary_references_and_folds_are_trained(trained: Trained) -> None:
    without_pool(trained)
    account = trained.account
    is_problem(account.http.post(f"{trained.where}:references", json={"count": 3}), 422, "schema")
    account.post(f"{trained.where}:references", {"count": 2}, 202)
    account.work()
    pool = in_use(trained)
    assert (pool.size, pool.design, pool.strength) == (2, "halves", 1.0)
    report = audit(trained, sample_ids=trained.ids[:300])
    assert (report["references"]["models"], report["judgement"]["given_references"]) == (2, True)
    assert report["candidate"]["ft_auc"]["positives"] == 300, "each has one that left it out"
    account.post(f"{trained.where}:references", {"count": 3, "design": "folds"}, 202)
    account.work()
    pool = in_use(trained)
    assert (pool.size, pool.design, pool.strength) == (3, "folds", 1.0)
    signals = references.stack([references.from_file(account.resources.blobs.fetch(digest)) for digest in pool.digests])
    assert (signals.membership.sum(axis=0) == 2).all()
    assert audit(trained, sample_ids=trained.ids[:300])["references"]["design"] == "folds"
