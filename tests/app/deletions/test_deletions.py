"""What a deletion request may say, what it may not, and that a refusal stores nothing and names nobody."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest
from sqlalchemy import insert, text, update

from app.core.tables import Base, Dataset, Sample
from app.datasets import samples
from tests.helpers import counts, is_problem
from tests.support import QUICK_MODEL, Account
from tests.trained import Trained


def refused(trained: Trained, ids: list[str], status: int, kind: str, **fields: Any) -> dict[str, Any]:
    """POST, and hold that nothing at all was stored and that no id came back."""
    before = counts(trained.account.database)
    body = {"dataset": trained.dataset, "sample_ids": ids, **fields}
    response = trained.account.http.post("/v1/deletion-requests", json=body)
    document = is_problem(response, status, kind)
    assert counts(trained.account.database) == before
    assert not [sample for sample in ids if len(sample) > 2 and sample in response.text]
    return document


@pytest.mark.validation
def test_unknown_duplicated_and_empty_ids_are_refused_by_position(trained: Trained) -> None:
    a, b = trained.ids[:2]
    found = refused(trained, [a, "nobody", b, "nobody-else"], 422, "sample-unknown")
    assert found["counts"] == {"unknown": 2}
    assert found["errors"] == [
        {"pointer": "/sample_ids/1", "code": "unknown"},
        {"pointer": "/sample_ids/3", "code": "unknown"},
    ]
    found = refused(trained, [a, b, a, a], 422, "sample-duplicated")
    assert found["counts"] == {"duplicate": 2}
    assert [fault["pointer"] for fault in found["errors"]] == ["/sample_ids/2", "/sample_ids/3"]
    found = refused(trained, ["nobody", a, "nobody", a], 422, "sample-unknown")
    assert found["counts"] == {"duplicate": 2, "unknown": 1}
    refused(trained, [], 422, "schema")
    refused(trained, ["", a], 422, "schema")
    refused(trained, ["x" * 257], 422, "schema")
    refused(trained, ["with\x00nul"], 422, "schema")
    # What an id looks like must not matter: wildcards, quotes, JSON and SQL are unknown ids like any other.
    refused(trained, ["%", "_", "digit-0000_", "' OR 1=1 --", '["x"]', "{}", "erased:"], 422, "sample-unknown")


@pytest.mark.validation
def test_at_most_a_hundred_faults_are_listed_and_all_are_counted(trained: Trained) -> None:
    found = refused(trained, [f"nobody-{n}" for n in range(250)], 422, "sample-unknown")
    assert found["counts"] == {"unknown": 250}
    assert len(found["errors"]) == 100


@pytest.mark.validation
def test_requested_and_erased_ids_are_conflicts(trained: Trained) -> None:
    first = trained.ids[:3]
    made = trained.delete(first)
    found = refused(trained, [trained.ids[5], first[2], first[0]], 409, "sample-requested")
    assert found["counts"] == {"requested": 2}
    assert [fault["pointer"] for fault in found["errors"]] == ["/sample_ids/1", "/sample_ids/2"]
    refused(trained, first[:1], 409, "sample-requested", model=trained.model)
    trained.account.work()
    assert trained.request(made)["status"] == "fulfilled"
    found = refused(trained, [trained.ids[5], *first], 409, "sample-erased")
    assert found["counts"] == {"erased": 3}
    found = refused(trained, [first[0], "nobody"], 422, "sample-unknown")
    assert found["counts"] == {"erased": 1, "unknown": 1}


def test_an_unknown_model_or_one_of_another_dataset_is_not_found(trained: Trained) -> None:
    ids = trained.ids[:1]
    refused(trained, ids, 404, "not-found", model="mdl_" + "0" * 26)
    refused(trained, ids, 404, "not-found", model="nonsense")
    source = {"name": "digits", "params": {"seed": 1}}
    other = trained.account.post("/v1/datasets", {"name": "other", "source": source})["id"]
    model = trained.account.post("/v1/models", {"name": "m", "dataset": other, **QUICK_MODEL})["id"]
    refused(trained, ids, 404, "not-found", model=model)
    before = counts(trained.account.database)
    response = trained.account.http.post(
        "/v1/deletion-requests", json={"dataset": "dst_" + "0" * 26, "sample_ids": ids}
    )
    is_problem(response, 404, "not-found")
    response = trained.account.http.post("/v1/deletion-requests", json={"dataset": other, "sample_ids": ids})
    is_problem(response, 409, "dataset-not-ready")
    assert counts(trained.account.database) == before


def of_class(trained: Trained, label: int) -> list[str]:
    page = trained.account.get(f"/v1/datasets/{trained.dataset}/samples", split="train", page_size=1000)
    return [item["id"] for item in page["items"] if item["label"] == label]


@pytest.mark.validation
def test_losing_a_class_or_everything_needs_the_flag(trained: Trained) -> None:
    threes = of_class(trained, 3)
    assert "1 class" in refused(trained, threes, 409, "data-loss")["detail"]
    assert "no training data" in refused(trained, trained.ids, 409, "data-loss")["detail"]
    trained.delete(threes[1:])
    # What is pending counts: the last sample of the class, and a model-scoped request for it.
    refused(trained, threes[:1], 409, "data-loss")
    refused(trained, threes[:1], 409, "data-loss", model=trained.model)
    trained.delete(threes[:1], allow_data_loss=True)
    # The class is gone already: another class's sample is no data loss.
    trained.delete(of_class(trained, 4)[:1])


@pytest.mark.validation
def test_losing_everything_needs_the_flag_before_version_1_is_trained_too(trained: Trained) -> None:
    account = trained.account
    body = {"name": "late", "dataset": trained.dataset, **QUICK_MODEL}
    late = account.post("/v1/models", body)["id"]
    account.post(f"/v1/models/{late}:train", {})
    assert late in refused(trained, of_class(trained, 5), 409, "data-loss", model=late)["detail"]


@pytest.mark.validation
def test_a_flagged_deletion_of_a_whole_class_goes_through(trained: Trained) -> None:
    threes = of_class(trained, 3)
    final = trained.forget(threes, allow_data_loss=True)
    assert final["status"] == "fulfilled"
    assert trained.account.get(f"{trained.where}/versions/2")["trained_samples"] == len(trained.ids) - len(threes)


def loaded(account: Account, ids: list[str]) -> str:
    """A dataset of samples with these ids, past the upload of as many images."""
    made: str = account.post("/v1/datasets", {"name": "large", "source": {"name": "upload"}})["id"]
    rows = [
        {"dataset_id": made, "position": p, "sample_id": sample, "label": 0, "holdout": False}
        for p, sample in enumerate(ids)
    ]
    with account.database.write() as session:
        session.execute(insert(Sample), rows)
        session.execute(
            update(Dataset)
            .where(Dataset.id == made)
            .values(state="ready", sample_count=len(ids), train_count=len(ids), class_count=1)
        )
    return made


@pytest.mark.validation
def test_a_hundred_thousand_ids_fit(account: Account) -> None:
    ids = [f"person-{p:06d}-{'é' * 100}" for p in range(100_000)]
    made = loaded(account, ids)
    assert account.delete(made, ids)["samples"] == len(ids)
    response = account.http.post("/v1/deletion-requests", json={"dataset": made, "sample_ids": [*ids, "one more"]})
    assert is_problem(response, 422, "schema")["errors"][0]["pointer"] == "/sample_ids"


def test_many_ids_are_found_and_refused_as_few_are(account: Account) -> None:
    ids = [f"p-{7 * n % 3001}" for n in range(3000)]
    ids[500] = "\x01"  # what would stand between them
    made = loaded(account, ids)
    asked = ids[2500:400:-1]
    with account.database.read() as session:
        dataset = session.get_one(Dataset, made)
        in_order = samples.look_up(session, dataset, [*asked, "nobody"])
        assert in_order.tolist() == [*range(2500, 400, -1), -1]
        for _ in range(15):
            assert sorted(samples.find(session, dataset, asked)) == list(range(401, 2501))
        if not account.database.is_sqlite:  # a kept plan without its list would compare each sample with each id
            assert session.scalar(text("SELECT count(*) FROM pg_prepared_statements")) == 0
        beside = samples.find(session, dataset, [*asked, "nobody", asked[0]])
        assert len(beside[beside >= 0]) < len(asked) + 2, "that some do not fit is seen"
    where = {"dataset": made, "sample_ids": ["nobody", asked[0], *asked]}
    found = is_problem(account.http.post("/v1/deletion-requests", json=where), 422, "sample-unknown")
    assert found["counts"] == {"unknown": 1, "duplicate": 1}
    assert [fault["pointer"] for fault in found["errors"]] == ["/sample_ids/0", "/sample_ids/2"]
    assert account.delete(made, asked)["samples"] == len(asked)
    again = {"dataset": made, "sample_ids": [*ids[:401], *asked]}
    found = is_problem(account.http.post("/v1/deletion-requests", json=again), 409, "sample-requested")
    assert found["counts"] == {"requested": len(asked)}
    assert found["errors"][0]["pointer"] == "/sample_ids/401"


@pytest.mark.validation
def test_a_mark_that_is_no_character_is_found_at_once(account: Account) -> None:
    """A client that uses up the characters one after the other must not make the search for a free one its own."""
    every = "".join(map(chr, [*range(1, 0xD800), *range(0xE000, 0x20000)]))
    ids = [every[at : at + 200] for at in range(0, len(every), 200)] + [f"p-{n}" for n in range(3000)]
    made = loaded(account, ids)
    began = time.process_time()
    assert account.delete(made, ids)["samples"] == len(ids)
    assert time.process_time() - began < 3.0


@pytest.mark.validation
def test_a_request_for_one_model_and_then_for_the_whole_dataset(trained: Trained) -> None:
    account, ids = trained.account, trained.ids[:10]
    scoped = trained.delete(ids, model=trained.model)
    assert [row["model"] for row in scoped["outcomes"]] == [trained.model]
    account.work()
    final = trained.request(scoped)
    assert (final["status"], final["model"], final["outcomes"][0]["version"]) == ("fulfilled", trained.model, 2)
    assert "sample-bytes" not in {receipt["subject"] for receipt in final["receipts"]}
    assert set(ids) <= set(account.training_ids(trained.dataset)), "the dataset keeps the samples"
    assert account.get(f"/v1/datasets/{trained.dataset}")["erased_samples"] == 0
    assert account.get(f"{trained.where}/versions/2")["trained_samples"] == len(trained.ids) - 10
    refused(trained, ids[:2], 409, "sample-requested", model=trained.model)

    whole = trained.forget(ids)
    assert (whole["status"], whole["outcomes"]) == ("fulfilled", []), "version 2 never saw them"
    assert set(ids).isdisjoint(account.training_ids(trained.dataset))
    assert account.get(trained.where)["current_version"] == 2


@pytest.mark.validation
def test_a_new_version_never_trains_on_what_its_model_was_asked_to_forget(trained: Trained) -> None:
    account = trained.account
    trained.forget(trained.ids[:10], model=trained.model)
    account.post(f"{trained.where}:train", {"seed": 5})
    account.work()
    version = account.get(f"{trained.where}/versions/3")
    assert (version["origin"], version["trained_samples"]) == ("trained", len(trained.ids) - 10)
    # The dataset keeps them, and another model may use them.
    other = account.model(trained.dataset)
    assert account.get(f"/v1/models/{other['id']}/versions/1")["trained_samples"] == len(trained.ids)


@pytest.mark.validation
def test_a_request_overlapping_a_pending_one_for_a_model_is_settled_once(trained: Trained) -> None:
    ids = trained.ids[:10]
    scoped, whole = trained.delete(ids, model=trained.model), trained.delete(ids)
    trained.account.work()
    assert trained.request(scoped)["outcomes"][0]["version"] == 2
    final = trained.request(whole)
    assert final["status"] == "fulfilled"
    assert "never trained" in final["outcomes"][0]["reason"]


@pytest.mark.validation
def test_holdout_samples_can_be_erased_though_no_model_saw_them(trained: Trained) -> None:
    account = trained.account
    page = account.get(f"/v1/datasets/{trained.dataset}/samples", split="holdout", page_size=3)
    held = [item["id"] for item in page["items"]]
    final = trained.forget(held)
    assert (final["status"], final["outcomes"]) == ("fulfilled", [])
    assert {"sample-bytes", "reference-columns"} <= {receipt["subject"] for receipt in final["receipts"]}
    assert account.get(trained.where)["current_version"] == 1
    mixed = trained.forget([trained.ids[0], *held_after(trained)])
    assert mixed["outcomes"][0]["version"] == 2
    assert account.get(f"{trained.where}/versions/2")["trained_samples"] == len(trained.ids) - 1


def held_after(trained: Trained) -> list[str]:
    page = trained.account.get(f"/v1/datasets/{trained.dataset}/samples", split="holdout", page_size=2)
    return [item["id"] for item in page["items"]]


@pytest.mark.validation
def test_two_models_on_one_dataset_both_forget(trained: Trained) -> None:
    account = trained.account
    other = account.model(trained.dataset)["id"]
    untrained = account.model(trained.dataset, train=False)["id"]
    made = trained.delete(trained.ids[:5])
    assert {row["model"] for row in made["outcomes"]} == {trained.model, other}
    assert len({row["job"] for row in made["outcomes"]}) == 2
    account.work()
    final = trained.request(made)
    assert final["status"] == "fulfilled"
    assert {(row["model"], row["state"], row["version"]) for row in final["outcomes"]} == {
        (trained.model, "purged", 2),
        (other, "purged", 2),
    }
    assert account.get(f"/v1/models/{untrained}")["current_version"] is None


@pytest.mark.validation
def test_a_request_during_the_training_of_version_1_is_honoured(trained: Trained) -> None:
    account = trained.account
    late = account.model(trained.dataset, train=False)["id"]
    account.post(f"/v1/models/{late}:train", {})
    made = trained.delete(trained.ids[:5])
    assert late in {row["model"] for row in made["outcomes"]}
    account.work()
    assert trained.request(made)["status"] == "fulfilled"
    assert account.get(f"/v1/models/{late}/versions/1")["trained_samples"] == len(trained.ids) - 5


@pytest.mark.validation
def test_the_due_date_follows_the_jurisdiction(trained: Trained) -> None:
    gdpr = trained.delete(trained.ids[:1])
    ccpa = trained.delete(trained.ids[1:2], jurisdiction="ccpa", basis="opt-out")
    assert gdpr["received_at"].endswith("Z")
    assert ccpa["due_at"] > gdpr["due_at"] > gdpr["received_at"]
    assert (ccpa["jurisdiction"], ccpa["basis"]) == ("ccpa", "opt-out")


def test_a_database_error_puts_no_id_into_the_log(trained: Trained, caplog: pytest.LogCaptureFixture) -> None:
    with trained.account.database.write() as session:
        session.execute(text("ALTER TABLE samples RENAME TO elsewhere"))
    with caplog.at_level(logging.DEBUG):
        body = {"dataset": trained.dataset, "sample_ids": ["digit-secret"]}
        response = trained.account.http.post("/v1/deletion-requests", json=body)
    is_problem(response, 500, "internal")
    assert "unexpected" in caplog.text
    assert "digit-secret" not in caplog.text + response.text


def test_the_ids_live_in_one_table_only(trained: Trained) -> None:
    """Every column of every other table, searched for the ids of a request before and after it is fulfilled."""
    ids = trained.ids[:4]
    trained.account.http.headers["Idempotency-Key"] = "one"
    made = trained.delete(ids)
    assert appearances(trained, ids) == {"samples"}
    del trained.account.http.headers["Idempotency-Key"]
    trained.account.work()
    assert trained.request(made)["status"] == "fulfilled"
    assert appearances(trained, ids) == set()


def appearances(trained: Trained, ids: list[str]) -> set[str]:
    found = set()
    with trained.account.database.read() as session:
        for name, table in Base.metadata.tables.items():
            rows = repr(session.execute(table.select()).all())
            if any(sample in rows for sample in ids):
                found.add(name)
    return found
