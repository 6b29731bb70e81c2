"""Measuring a version again, probes by name, and the null that exact retrains give."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, update

from app.core.tables import AuditRow, DeletionRequest, Job, Model, OutcomeRow, Sample, Version
from app.deletions import batches, retention
from tests.helpers import is_problem
from tests.support import Document
from tests.trained import Trained

RELEARN = {"name": "relearn", "params": {"most_steps": 5}}
ROBUST = {"name": "robust_accuracy", "params": {"steps": 2}}
BESIDE_A_RETRAIN = ("completeness", "most_vulnerable", "residual_knowledge", "two_versions", "neighbours")
KNOWN = {"name": "known_method", "params": {"shadows": 4}}


def audit(trained: Trained, **body: Any) -> Document:
    """Start an audit, work, and the report it made."""
    job = trained.account.post(f"{trained.where}:audit", body, 202)["id"]
    trained.account.work()
    ended = trained.account.get(f"/v1/jobs/{job}")
    assert ended["state"] == "succeeded", ended["problem"]
    where = f"{trained.where}/versions/{ended['result']['version']}/audits/{ended['result']['audit']}"
    found = trained.account.get(where)
    assert found == trained.account.get(f"/v1/jobs/{job}/audit")
    return dict(found["report"])


@pytest.mark.validation
def test_a_version_without_a_forget_set_shows_its_own_signal(trained: Trained) -> None:
    report = audit(trained)
    assert (report["version"], report["method"], report["forget_samples"]) == (1, "trained", 0)
    assert report["candidate"]["rt_auc"]["positives"] == 898
    assert report["candidate"]["accuracy_test"] > 0.1
    assert (report["candidate"]["ft_auc"], report["candidate"]["accuracy_forget"]) == (None, None)
    assert (report["judgement"]["verdict"], report["gate"]) == ("inconclusive", None)
    assert "no forget set" in report["judgement"]["reason"]
    shown = trained.account.get(f"{trained.where}/versions/1/audit")["report"]
    assert shown == report, "a version that was published without a report shows its newest"
    page = trained.account.http.get(f"{trained.where}/versions/1/audit", headers={"Accept": "text/html"}).text
    assert "measured without a forget set" in page
    assert "<h1>m, version 1</h1>" in page


def test_samples_are_named_by_id_and_held_as_positions(trained: Trained) -> None:
    named = trained.ids[:30]
    report = audit(trained, sample_ids=named, audit={"name": "lira"})
    assert (report["audit"], report["forget_samples"], report["retain_samples"]) == ("lira", 30, 868)
    assert report["candidate"]["ft_auc"]["positives"] == 30
    with trained.account.database.read() as session:
        params = session.scalars(select(Job.params).where(Job.kind == "audit")).one()
        reports = session.scalars(select(AuditRow.report)).all()
    assert not any(sample in str(part) for sample in named for part in (params, reports))
    unknown = {"sample_ids": ["nobody"]}
    is_problem(trained.account.http.post(f"{trained.where}:audit", json=unknown), 422, "sample-unknown")


@pytest.mark.validation
def test_the_batch_is_measured_again_until_it_is_purged_and_the_published_verdict_stays(trained: Trained) -> None:
    request = trained.delete(trained.ids[::10])
    # Queued before the purge, which therefore waits for it.
    trained.account.post(f"{trained.where}:audit", {"audit": {"name": "mis"}, "probes": [RELEARN]}, 202)
    early = trained.account.get("/v1/jobs", kind="audit")["items"][0]["id"]
    trained.account.work()
    assert trained.request(request)["status"] == "fulfilled"
    # It was asked for the version that was current then.
    assert trained.account.get(f"/v1/jobs/{early}/audit")["report"]["version"] == 1
    before = trained.account.get(f"{trained.where}/versions/2/audit")
    after = audit(trained, version=2)
    assert (after["forget_samples"], after["candidate"]["ft_auc"]) == (0, None)
    assert after["method"] == "amun"
    assert trained.account.get(f"{trained.where}/versions/2/audit") == before
    listed = trained.account.get(f"{trained.where}/versions/2/audits")["items"]
    assert [row["published"] for row in listed] == [False, True]
    card = trained.account.http.get(f"{trained.where}/versions/2/model_card.md").text
    assert before["report"]["judgement"]["reason"] in card
    is_problem(
        trained.account.http.post(f"{trained.where}:audit", json={"sample_ids": trained.ids[:1]}), 409, "sample-erased"
    )


@pytest.mark.validation
def test_a_request_for_one_model_alone_can_be_measured_again_at_any_time(trained: Trained) -> None:
    trained.forget(trained.ids[::10], model=trained.model)
    report = audit(trained, probes=[RELEARN, ROBUST])
    assert (report["version"], report["forget_samples"], report["method"]) == (2, 90, "amun")
    published = trained.account.get(f"{trained.where}/versions/2/audit")["report"]
    assert report["candidate"]["ft_auc"] == published["candidate"]["ft_auc"]
    assert report["judgement"] == published["judgement"]
    assert [probe["name"] for probe in report["probes"]] == ["relearn", "robust_accuracy"]
    assert report["parent"]["relearning"]["steps"] == 0, "the parent is where the target was taken from"
    assert 0 <= report["candidate"]["robust_accuracy"] <= report["candidate"]["accuracy_test"]


@pytest.mark.validation
def test_a_purged_version_and_a_foreign_one_cannot_be_measured(trained: Trained) -> None:
    trained.forget(trained.ids[:3])
    with trained.account.database.write() as session:
        first = session.scalars(select(Version).where(Version.number == 1)).one()
        first.purge_after = first.created_at
    retention.purge_due_versions(trained.account.database, trained.account.resources.blobs)
    is_problem(trained.account.http.post(f"{trained.where}:audit", json={"version": 1}), 410, "purged")
    is_problem(trained.account.http.post(f"{trained.where}:audit", json={"version": 9}), 404, "not-found")
    is_problem(trained.account.http.post(f"{trained.where}:audit", json={"audit": {"name": "amun"}}), 422, "schema")
    twice = {"probes": [RELEARN, RELEARN]}
    is_problem(trained.account.http.post(f"{trained.where}:audit", json=twice), 422, "schema")
    missing = f"{trained.where}/versions/2/audits/aud_{'0' * 26}"
    is_problem(trained.account.http.get(missing), 404, "not-found")


# -- probes ----------------------------------------------------------------------------------------


def test_the_catalog_names_every_probe_with_its_parameters(shared: Trained) -> None:
    probes = shared.account.get("/v1/catalog")["probes"]
    assert set(probes) == {"relearn", "robust_accuracy", "known_method", *BESIDE_A_RETRAIN}
    assert probes["known_method"]["params"]["properties"]["shadows"]["multipleOf"] == 2


@pytest.mark.validation
def test_the_policys_probes_are_in_the_report_on_the_page_and_beside_the_retrain(trained: Trained) -> None:
    put = trained.account.http.put(f"{trained.where}/policy", json={"probes": [RELEARN, ROBUST, KNOWN]})
    assert put.status_code == 200
    request = trained.delete(trained.ids[::30])
    body = {"exclude_request": request["id"], "compare_only": True}
    trained.account.post(f"{trained.where}:train", body)
    trained.account.work()
    document = trained.account.get(f"{trained.where}/versions/2/audit")
    report, retrained = document["report"], document["retrained"]["measurement"]
    runs = {probe["name"]: probe for probe in report["probes"]}
    assert [probe["skipped"] for probe in runs.values()] == [None, None, None]
    trained_models = [runs[name]["models_trained"] for name in ("relearn", "known_method")]
    assert trained_models == [1, 8], "one control for both; each shadow is taught and made to forget"
    own = report["candidate"]
    assert own["known_method_excess"]["value"] == pytest.approx(
        own["known_method_ft_auc"]["value"] - own["known_method_control"]
    )
    assert report["candidate"]["known_method_ft_auc"]["positives"] <= 30
    assert report["candidate"]["relearning"]["target"] == retrained["relearning"]["target"]
    assert report["candidate"]["relearning"]["controlled"], "an exact retrain stands beside it"
    assert retrained["robust_accuracy"] is not None
    page = trained.account.http.get(f"{trained.where}/versions/2/audit", headers={"Accept": "text/html"}).text
    for words in ("Relearning", "Robust accuracy", "FT-AUC, method known", "8 models trained"):
        assert words in page


@pytest.mark.validation
def test_probes_stand_beside_one_retrain(trained: Trained) -> None:
    """Of a request for one model alone, whose samples stay: one retrain for all of them, and a class that is gone."""
    asked = [{"name": name} for name in BESIDE_A_RETRAIN[:-1]]
    trained.forget(trained.ids[::10], model=trained.model)
    report = audit(trained, probes=[*asked, {"name": "neighbours"}])
    runs = {probe["name"]: probe for probe in report["probes"]}
    assert sum(probe["models_trained"] for probe in runs.values()) == 1
    assert runs["neighbours"]["skipped"] == "the forget set is not most of any class"
    probed = report["candidate"]["probed"]
    assert set(probed) == set(BESIDE_A_RETRAIN[:-1])
    for figure in probed.values():
        assert figure["excess"]["value"] == pytest.approx(figure["value"] - figure["control"])
        assert figure["excess"]["interval"]["low"] < figure["excess"]["interval"]["high"] or figure["value"] == 0
    assert probed["two_versions"]["samples"] == 90
    assert probed["most_vulnerable"]["samples"] == 9
    listed = trained.account.get(f"{trained.where}/versions/2/audits")["items"][0]["id"]
    where = f"{trained.where}/versions/2/audits/{listed}"
    page = trained.account.http.get(where, headers={"Accept": "text/html"}).text
    for words in ("Completeness", "an exact retrain", "Both versions known", "The same, less that retrain"):
        assert words in page


@pytest.mark.validation
def test_a_probe_with_nothing_to_measure_says_so(trained: Trained) -> None:
    report = audit(trained, probes=[RELEARN, KNOWN])
    assert [probe["skipped"] for probe in report["probes"]] == [
        "there is no forget set to relearn",
        "the version was not made by a method that shadows could imitate",
    ]


def test_the_transfer_attack_reports_its_rate(trained: Trained) -> None:
    account = trained.account
    account.post(f"{trained.where}:precompute", {})
    account.work()
    policy = {"method": {"name": "amun", "params": {"epochs": 1}}, "attack": {"name": "transfer"}}
    assert account.http.put(f"{trained.where}/policy", json=policy).status_code == 200
    trained.forget(trained.ids[:5])
    adversarial = account.get(f"{trained.where}/versions/2/audit")["report"]["adversarial"]
    assert (adversarial["attack"], adversarial["transfer_fooled"], adversarial["transfer_agreed"]) == (
        "transfer",
        1.0,
        1.0,
    )
    page = account.http.get(f"{trained.where}/versions/2/audit", headers={"Accept": "text/html"}).text
    assert "Transfer rate" in page


# -- the null of retrained models ------------------------------------------------------------------


@pytest.mark.parametrize("count", [4, 5])
def test_five_retrains_are_the_null_of_a_grouped_set(trained: Trained, count: int) -> None:
    """They are trained while the request waits for its batch, so that its own audit has them."""
    account = trained.account
    policy = {"when": {"mode": "batch", "max_requests": 2}, "method": {"name": "amun", "params": {"epochs": 1}}}
    policy |= {"null_seconds": 0}
    assert account.http.put(f"{trained.where}/policy", json=policy).status_code == 200
    request = trained.delete(trained.ids[:40])
    with account.database.write() as session:
        session.get_one(DeletionRequest, request["id"]).by_subject = True
        assert session.scalars(select(OutcomeRow.state)).one() == "pending"
    body = {"exclude_request": request["id"], "compare_only": True}
    for seed in range(count):
        account.post(f"{trained.where}:train", body | {"seed": seed})
    account.work()
    with account.database.write() as session:
        batches.close(session, session.get_one(Model, trained.model), session.scalars(select(OutcomeRow)).all())
    account.work()
    published = f"{trained.where}/versions/{count + 2}/audit"  # the retrains have numbers of their own
    judgement = account.get(published)["report"]["judgement"]
    if count < 5:
        assert (judgement["null_source"], judgement["null_models"]) == ("none", None)
        assert "no valid control" in judgement["reason"]
    else:
        assert (judgement["null_source"], judgement["null_models"]) == ("retrained", 5)
        assert judgement["standard_error"] > 0


@pytest.mark.parametrize("trained", ["sqlite"], indirect=True)
def test_a_batch_without_another_null_waits_for_its_five_retrains(trained: Trained) -> None:
    account = trained.account
    policy = {"method": {"name": "amun", "params": {"epochs": 1}}, "utility_floor": 1.0}
    assert account.http.put(f"{trained.where}/policy", json=policy).status_code == 200
    with account.database.write() as session:
        first = select(Sample.position).where(~Sample.holdout).order_by(Sample.position).limit(40)
        session.execute(update(Sample).where(Sample.position.in_(session.scalars(first).all())).values(subject="ann"))
    body = {"dataset": trained.dataset, "subjects": ["ann"]}
    request = account.post("/v1/deletion-requests", body)
    account.work()
    assert trained.request(request)["status"] == "fulfilled"
    number = trained.request(request)["outcomes"][0]["version"]
    document = account.get(f"{trained.where}/versions/{number}/audit")
    judgement = document["report"]["judgement"]
    assert (judgement["null_source"], judgement["null_models"]) == ("retrained", 5)
    assert judgement["interval"] is not None
    assert document["report"]["stage_seconds"]["null"] > 0
    assert document["retrained"] is not None, "one of them stands beside it"
    with account.database.read() as session:
        own = trained.request(request)["outcomes"][0]["job"]
        assert len(session.scalars(select(Job.id).where(Job.parent_id == own, Job.kind == "train")).all()) == 5
    versions = account.get(f"{trained.where}/versions", origin="comparison")["items"]
    assert len({version["digest"] for version in versions}) == 5, "each from a seed of its own"

    few = account.post("/v1/deletion-requests", {"dataset": trained.dataset, "sample_ids": trained.ids[50:53]})
    account.work()
    assert trained.request(few)["status"] == "fulfilled"
    assert len(account.get(f"{trained.where}/versions", origin="comparison")["items"]) == 5, "no retrain could decide"


# -- people ----------------------------------------------------------------------------------------


def test_a_batch_by_many_people_is_judged_against_people_who_were_never_trained_on(trained: Trained) -> None:
    account = trained.account
    with account.database.write() as session:
        for held, prefix in ((False, "trained"), (True, "held")):
            chosen = session.scalars(select(Sample.position).where(Sample.holdout == held).order_by(Sample.position))
            for number, position in enumerate(chosen.all()):
                mine = update(Sample).where(Sample.dataset_id == trained.dataset, Sample.position == position)
                session.execute(mine.values(subject=f"{prefix}-{number // 3}"))
    body = {"dataset": trained.dataset, "subjects": [f"trained-{number}" for number in range(40)]}
    request = account.post("/v1/deletion-requests", body)
    account.work()
    assert trained.request(request)["status"] == "fulfilled"
    report = account.get(f"{trained.where}/versions/2/audit")["report"]
    balance, judgement = report["balance"], report["judgement"]
    assert (balance["persons"], balance["effective_persons"], balance["remaining_persons"]) == (40, 40.0, 0)
    assert balance["control_persons"] > 40
    assert not balance["random_like"]
    assert judgement["null_source"] in ("people", "same_classes")
    assert judgement["interval"] is not None
    page = account.http.get(f"{trained.where}/versions/2/audit", headers={"Accept": "text/html"}).text
    assert "never trained on" in page

    one = account.post("/v1/deletion-requests", {"dataset": trained.dataset, "subjects": ["trained-50"]})
    account.work()
    assert trained.request(one)["status"] == "fulfilled"
    judgement = account.get(f"{trained.where}/versions/3/audit")["report"]["judgement"]
    assert (judgement["verdict"], judgement["null_source"]) == ("inconclusive", "none")
    assert "count as 1.0 by their samples; a verdict takes 5" in judgement["reason"]
    steps = account.get(f"{trained.where}/versions/3/audit")["report"]["next_steps"]
    assert "at least 5 people in one batch" in steps[0]
    assert "5 exact retrains" in steps[1]
    page = account.http.get(f"{trained.where}/versions/3/audit", headers={"Accept": "text/html"}).text
    assert "Requested by person" in page
    assert "What to do next" in page
