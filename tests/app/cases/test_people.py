"""Looking people up, drafts, one letter about several datasets, recalls, and the retention of what names people."""

from __future__ import annotations

import io
import json
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select, update

from app.cases import draft, retention
from app.core import db
from app.core.tables import (
    Base,
    CertificateRow,
    Dataset,
    DeletionRequest,
    Download,
    NegativeReport,
    Proposal,
    Sample,
)
from app.evidence import certificate, negative
from app.formats.manifest import SourceError
from app.recovery import erasure_ledger
from tests.app.cases.sealed import REQUESTS, case_of, log_of, parts, sweep
from tests.app.datasets.test_shards import part, put
from tests.app.datasets.test_uploads import dataset
from tests.helpers import as_other, is_problem
from tests.support import Account, Document
from tests.trained import Trained
from worker.jobs import ingest
from worker.runtime.run import CancelledError


def upload(account: Account, name: str, subjects: list[str], seed: int) -> Document:
    """A dataset of small images with subjects; every third sample is held out."""
    draw = np.random.default_rng(seed)
    count = len(subjects)
    made = io.BytesIO()
    np.savez(
        made,
        images=draw.integers(0, 255, (count, 8, 8, 1), dtype=np.uint8),
        labels=np.arange(count) % 2,
        ids=np.array([f"{name}-{n}" for n in range(count)]),
        holdout=np.arange(count) % 3 == 2,
        subject=np.array(subjects),
    )
    source = {"name": "upload", "params": {"class_names": ["a", "b"]}}
    dataset = account.post("/v1/datasets", {"name": name, "source": source})
    headers = {"Content-Type": "application/x-npz"}
    sent = account.http.put(f"/v1/datasets/{dataset['id']}/content", content=made.getvalue(), headers=headers)
    assert sent.status_code == 202, sent.text
    account.work()
    return account.get(f"/v1/datasets/{dataset['id']}")


PEOPLE = ["anna", "ben", "carla", "anna", "anna", "ben"] * 4


@pytest.mark.parametrize("error", [CancelledError(), OSError(28, "No space left on device"), None])
def test_a_dataset_that_was_not_taken_in_is_named_and_keeps_nobody(
    account: Account, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    """As seen: a letter answered 500 while the person had rows in such a dataset, and the rows stayed for ever."""
    ready = upload(account, "clinic", PEOPLE, 1)

    def broken(*_args: object) -> None:
        if error is None:
            raise SourceError("what was sent is damaged")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "_finish" if error else "_found", broken)
        failed = upload(account, "archive", PEOPLE, 2)
    if isinstance(error, OSError):  # it waits for its next attempt
        assert failed["state"] == "ingesting"
    else:
        assert failed["state"] == "failed"
        with account.database.read() as session:
            assert session.scalars(select(Sample.sample_id).where(Sample.dataset_id == failed["id"])).all() == []
    found = account.post(f"{REQUESTS}:find", {"subjects": ["anna"]})
    assert ([each["name"] for each in found["held"]], found["not_read"]) == (["clinic"], [failed["id"]])
    like = {"dataset": ready["id"], "jurisdiction": "gdpr"}
    spread = account.post(f"{REQUESTS}:span", {"subjects": ["anna"], "like": like})
    assert (len(spread["requests"]), spread["not_read"]) == (1, [failed["id"]])


def test_a_dataset_whose_shards_were_received_is_named(account: Account) -> None:
    """As seen: nobody heard of a person in shards of a dataset that was not closed yet."""
    made, empty = dataset(account), dataset(account)
    assert put(account, made, 0, part(0, subject=["ann"] * 20)).status_code == 200
    assert account.post(f"{REQUESTS}:find", {"subjects": ["ann"]})["not_read"] == [made]
    assert account.get(f"/v1/datasets/{empty}")["state"] == "awaiting-content"


def test_people_are_found_across_datasets(account: Account) -> None:
    one, two = upload(account, "clinic", PEOPLE, 1), upload(account, "archive", [*PEOPLE[1:], "dora"], 2)
    account.delete(one["id"], ["clinic-0", "clinic-3"])
    found = account.post(f"{REQUESTS}:find", {"subjects": ["anna", "dora", "nobody"]})
    by_place = {(each["subject"], each["name"]): each for each in found["held"]}
    assert set(by_place) == {(0, "clinic"), (0, "archive"), (1, "archive")}
    anna = by_place[0, "clinic"]
    assert (anna["samples"], anna["requested"], list(anna["requests"].values())) == (12, 2, [2])
    assert found["erased"] == []
    spread = account.post(
        f"{REQUESTS}:span",
        {"subjects": ["anna"], "like": {"dataset": "archive", "jurisdiction": "gdpr:DE", "reference": "letter 9"}},
    )
    made = [account.get(f"{REQUESTS}/{name}") for name in spread["requests"]]
    assert [each["dataset"] for each in made] == [two["id"], one["id"]]
    assert {each["case"] for each in made} == {spread["case"]} == {made[0]["id"]}
    assert {each["due_at"] for each in made} == {spread["due_at"]}
    assert [each["samples"] for each in made] == [11, 10]
    assert len(account.get(REQUESTS, case=spread["case"])["items"]) == 2
    account.work()
    gone = account.post(f"{REQUESTS}:find", {"subjects": ["anna", "ben"]})
    assert gone["erased"] == [0]
    assert {each["subject"] for each in gone["held"]} == {1}
    is_problem(
        account.http.post(f"{REQUESTS}:span", json={"subjects": ["anna"], "like": {"dataset": two["id"]}}),
        404,
        "not-found",
    )
    other = account.http.post(f"{REQUESTS}:find", json={"subjects": ["ben"]}, headers=as_other(account)).json()
    assert other == {"held": [], "erased": [], "not_read": []}


def test_a_letter_about_several_datasets_has_a_draft(account: Account) -> None:
    one, two = upload(account, "clinic", PEOPLE, 1), upload(account, "archive", [*PEOPLE[1:], "dora"], 2)
    like = {"dataset": one["id"], "jurisdiction": "gdpr:DE", "validate_only": True}
    found = account.post(f"{REQUESTS}:span", {"subjects": ["anna"], "like": like}, 200)
    drafts = [(each["dataset"], each["name"], each["samples"], each["models"]) for each in found["drafts"]]
    assert drafts == [(one["id"], "clinic", 12, []), (two["id"], "archive", 11, [])]
    assert found["due_at"] == found["drafts"][0]["due_at"]
    assert all("No model is affected" in each["notes"][0] for each in found["drafts"])
    assert account.get(REQUESTS)["items"] == []
    made = account.post(f"{REQUESTS}:span", {"subjects": ["anna"], "like": like | {"validate_only": False}})
    assert len(made["requests"]) == 2


def test_people_whose_samples_were_erased_by_id_are_known(account: Account) -> None:
    """As read: only what was erased by subject was remembered."""
    one = upload(account, "clinic", PEOPLE, 1)
    mine = [f"clinic-{number}" for number, subject in enumerate(PEOPLE) if subject == "anna"]
    account.delete(one["id"], mine)
    assert account.post(f"{REQUESTS}:find", {"subjects": ["anna"]})["erased"] == []
    account.work()
    found = account.post(f"{REQUESTS}:find", {"subjects": ["ben", "Anna", "anna"]})
    assert found["erased"] == [2]
    assert {each["subject"] for each in found["held"]} == {0}
    again = upload(account, "archive", PEOPLE, 2)
    assert again["samples"] == len(PEOPLE), "what was asked for by id keeps nobody out"


@pytest.mark.validation
def test_a_span_is_all_or_nothing(account: Account) -> None:
    one, two = upload(account, "clinic", PEOPLE, 1), upload(account, "archive", PEOPLE, 2)
    bad = {"dataset": one["id"], "received_at": "2001-01-01", "received_reason": "old"}
    is_problem(
        account.http.post(f"{REQUESTS}:span", json={"subjects": ["anna"], "like": bad}), 422, "received-before-law"
    )
    assert account.get(REQUESTS)["items"] == []
    assert two["erased_samples"] == 0


@pytest.mark.validation
def test_a_draft_says_what_a_request_would_mean(trained: Trained) -> None:
    account = trained.account
    before = account.get(REQUESTS)
    made = account.post(f"{REQUESTS}:draft", {"dataset": trained.dataset, "sample_ids": trained.ids[:3]})
    [model] = made["models"]
    assert (made["samples"], model["model"], model["samples"]) == (3, trained.model, 3)
    assert model["smallest_margin"] > model["margin"]
    assert any("inconclusive" in note for note in made["notes"])
    assert [(each["number"], each["state"]) for each in made["versions"]] == [(1, "current")]
    assert made["duplicates"] == 0
    by_name = account.post(f"{REQUESTS}:draft", {"dataset": "digits", "sample_ids": trained.ids[:3]})
    assert by_name["models"] == made["models"]
    assert account.get(REQUESTS) == before
    labels = {each["id"]: each["label"] for each in samples(account, trained.dataset)}
    zeros = [name for name in trained.ids if labels[name] == 0]
    lost = account.post(f"{REQUESTS}:draft", {"dataset": trained.dataset, "sample_ids": zeros})
    assert lost["models"][0]["emptied"] == [0]
    is_problem(
        account.http.post(f"{REQUESTS}:draft", json={"dataset": trained.dataset, "sample_ids": ["x"]}),
        422,
        "sample-unknown",
    )


def samples(account: Account, dataset: str) -> list[Document]:
    found: list[Document] = account.get(f"/v1/datasets/{dataset}/samples", page_size=1000)["items"]
    more = account.get(f"/v1/datasets/{dataset}/samples", page_size=1000, split="train")["items"]
    return [*found, *more]


def test_the_smallest_margin_is_that_of_the_formula() -> None:
    # Mann and Whitney: the variance of an AUC without difference is (n + m + 1) / 12nm
    found = draft.smallest_margin(350, 100_000)
    assert found == pytest.approx(3.24 * (100_351 / (12 * 350 * 100_000)) ** 0.5)
    assert draft.smallest_margin(0, 10) is None


def test_a_draft_says_the_duplicates_of_any_source_or_that_nobody_knows(account: Account) -> None:
    images = np.random.default_rng(3).integers(0, 255, (4, 8, 8, 1), dtype=np.uint8)
    images[3] = images[0]
    made = io.BytesIO()
    np.savez(made, images=images, labels=np.array([0, 1, 0, 1]), ids=np.array(["a", "b", "c", "d"]))
    dataset = account.post("/v1/datasets", {"name": "twice", "source": {"name": "upload", "params": {}}})["id"]
    headers = {"Content-Type": "application/x-npz"}
    account.http.put(f"/v1/datasets/{dataset}/content", content=made.getvalue(), headers=headers)
    account.work()
    order = {"dataset": dataset, "sample_ids": ["a"]}
    found = account.post(f"{REQUESTS}:draft", order)
    assert found["duplicates"] == 1
    assert "1 other sample has the same pixels as one of these, and would stay." in found["notes"]
    with account.database.write() as session:
        session.get_one(Dataset, dataset).duplicates = None  # as an earlier version took it in
    assert account.post(f"{REQUESTS}:draft", order)["duplicates"] is None
    shown = account.post(REQUESTS, order | {"validate_only": True})
    assert (shown["duplicates"], shown["duplicate_ids"]) == (None, [])


# -- recall ----------------------------------------------------------------------------------------


@pytest.mark.validation
def test_a_recall_names_who_fetched_what(trained: Trained) -> None:
    account = trained.account
    account.http.put(f"{trained.where}/aliases/production", json={"version": 1}).raise_for_status()
    account.http.get(f"{trained.where}/versions/1/checkpoint").raise_for_status()
    account.http.head(f"{trained.where}/versions/1/checkpoint").raise_for_status()
    made = trained.delete(trained.ids[:2])
    where = f"{REQUESTS}/{made['id']}"
    is_problem(account.http.post(f"{where}:recall", json={}), 409, "recall-too-early")
    account.work()
    [version] = account.get(f"{where}/blast-radius")["versions"]
    assert (version["number"], version["aliases"], version["samples"]) == (1, ["production"], 2)
    [fetched] = version["downloads"]
    assert (fetched["name"], fetched["form"]) == ("first key", "checkpoint")
    recalled = account.post(f"{where}:recall", {"language": "fr"})
    assert [each["number"] for each in recalled["versions"]] == [1]
    assert recalled["keys"] == [fetched["key"]]
    notice = account.get(f"{where}/notices/{recalled['notice']}")
    assert version["digest"] in notice["body"]
    assert notice["language"] == "fr"
    sweep(account)
    kinds = [each["kind"] for each in log_of(account)]
    assert "recall.issued" in kinds


@pytest.mark.validation
def test_nothing_is_recalled_that_nobody_has(trained: Trained) -> None:
    made = trained.forget(trained.ids[:2])
    refused = trained.account.http.post(f"{REQUESTS}/{made['id']}:recall", json={})
    is_problem(refused, 409, "nothing-to-recall")


# -- retention -------------------------------------------------------------------------------------

PLANTED = "Wilhelmina-von-Plantagenet"


@pytest.mark.validation
def test_what_names_people_is_in_its_own_tables_and_goes_with_a_receipt(trained: Trained) -> None:
    account = trained.account
    account.http.put("/v1/compliance/rules", json={"keep_months": 1}).raise_for_status()
    made = trained.forget(trained.ids[:2], reference=f"letter of {PLANTED}", basis=f"consent of {PLANTED}")
    where = f"{REQUESTS}/{made['id']}"
    refused = trained.delete(trained.ids[4:6], reference=PLANTED, jurisdiction="ccpa")
    account.post(f"{REQUESTS}/{refused['id']}:identity", {"status": "confirmed", "note": f"saw {PLANTED}'s passport"})
    account.post(f"{REQUESTS}/{refused['id']}:refuse", {"reason": f"{PLANTED} wrote 300 letters"})
    notice = account.post(f"{where}/notices", {"kind": "completion"})
    account.post(f"{where}/notices/{notice['id']}:sent", {"how": f"by {PLANTED}"})
    account.post(f"{where}/papers", {"kind": "letter", "name": f"{PLANTED}.pdf", "content": "aGk="})
    why = {"reason": f"{PLANTED} sues"}
    fetched = account.http.get(f"{trained.where}/versions/1/checkpoint", params=why)
    assert fetched.status_code == 200
    case = case_of(account, made["id"], with_papers=True)
    assert PLANTED.encode() in parts(case)["case.json"]
    with account.database.write() as session:  # as a version before left one that nobody decided
        words = {"reason": f"{PLANTED} sues us", "created_at": db.now(session)}
        session.add(Proposal(request_id=made["id"], key_id="key_x", **words))
    sweep(account)
    personal = {table.__tablename__ for table in retention.PERSONAL} | {"deletion_requests", "idempotency", "downloads"}
    assert holders(account) <= personal
    assert PLANTED not in str(log_of(account))
    assert PLANTED not in account.http.get("/metrics").text
    assert PLANTED not in json.dumps(account.get("/v1/certificates", request=made["id"]))
    statements = signed(account)
    assert {kind for kind, _ in statements} == {certificate.PREDICATE_TYPE, negative.PREDICATE_TYPE}
    assert PLANTED not in str(statements)
    ledger = account.settings.data_dir / "ledger"
    erasure_ledger.Keeper(account.database, account.settings, ledger).keep()
    assert made["id"] in ledger.read_text()
    assert PLANTED not in ledger.read_text()
    assert retention.erase_due(account.database) == 0
    move(account, -timedelta(days=40))
    assert retention.erase_due(account.database) == 2  # a download; the other is under the CCPA: 24 months
    assert retention.erase_due(account.database) == 0
    move(account, -timedelta(days=24 * 31))
    assert retention.erase_due(account.database) == 1
    assert holders(account) <= {"idempotency"}  # replies, for 30 days
    shown = account.get(where)
    assert shown["reference"] is None
    assert [each for each in shown["receipts"] if each["subject"] == "case-details" and each["done_at"]]
    assert account.get(f"{REQUESTS}/{refused['id']}")["reason"] == retention.ERASED
    assert (shown["basis"], account.get(f"{REQUESTS}/{refused['id']}")["basis"]) == (retention.ERASED, retention.BASIS)
    assert account.get(where)["status"] == "fulfilled"
    assert len(account.get("/v1/compliance/register")) == 2


def test_what_is_kept_longer_stands_in_nobodys_way(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """As seen: as many requests under the CCPA as are looked at together kept all others from being erased."""
    monkeypatch.setattr(retention, "AT_ONCE", 1)
    account = trained.account
    account.http.put("/v1/compliance/rules", json={"keep_months": 1}).raise_for_status()
    for law in ("ccpa", "gdpr", "gdpr"):
        made = trained.delete(trained.ids[:2], reference=PLANTED, jurisdiction=law)
        account.post(f"{REQUESTS}/{made['id']}:cancel", {"reason": "mind changed"})
    move(account, -timedelta(days=40))
    assert [retention.erase_due(account.database) for _ in range(3)] == [1, 1, 0]


def test_words_about_a_request_that_has_no_other_detail_go_too(trained: Trained) -> None:
    account = trained.account
    account.http.put("/v1/compliance/rules", json={"keep_months": 1}).raise_for_status()
    made = trained.forget(trained.ids[:2], basis=PLANTED)
    move(account, -timedelta(days=40))
    assert [retention.erase_due(account.database) for _ in range(2)] == [1, 0]
    assert account.get(f"{REQUESTS}/{made['id']}")["basis"] == retention.ERASED
    assert holders(account) <= {"idempotency"}


def signed(account: Account) -> list[tuple[str, str]]:
    """Type and text of every signed statement that is kept."""
    with account.database.read() as session:
        envelopes = [
            *session.scalars(select(CertificateRow.envelope)),
            *session.scalars(select(NegativeReport.envelope)),
        ]
    statements = [certificate.opened(envelope) for envelope in envelopes if envelope]
    return [(each["predicateType"], json.dumps(each)) for each in statements]


def move(account: Account, by: timedelta) -> None:
    with account.database.write() as session:
        for download in session.scalars(select(Download)):
            download.at += by
        for name in ("fulfilled_at", "decided_at"):
            column = getattr(DeletionRequest, name)
            for row in session.query(DeletionRequest).filter(column.is_not(None)):
                setattr(row, name, getattr(row, name) + by)


def holders(account: Account) -> set[str]:
    """Tables with a row that has the planted name, in any column."""
    found = set()
    with account.database.read() as session:
        for name, table in Base.metadata.tables.items():
            for row in session.execute(table.select()):
                if any(PLANTED in str(value) or PLANTED.encode() in _bytes(value) for value in row):
                    found.add(name)
    return found


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else b""


# -- figures ---------------------------------------------------------------------------------------


def test_figures_agree_with_a_count_by_hand(trained: Trained) -> None:
    account = trained.account
    ids = trained.ids
    trained.forget(ids[:2], ground="17(1)(a)")
    two = trained.delete(ids[2:4], jurisdiction="ccpa", ground="1798.105")
    account.post(f"{REQUESTS}/{two['id']}:refuse", {"reason": "needed", "ground": "1798.105(d)(1)"})
    three = trained.delete(ids[4:6])
    account.post(f"{REQUESTS}/{three['id']}:cancel", {"reason": "mind changed"})
    trained.delete(ids[6:8], jurisdiction="uk-gdpr")
    found = account.get("/v1/compliance/figures")
    assert found["received"] == 4
    assert found["by_law"] == {"ccpa": 1, "gdpr": 2, "uk-gdpr": 1}
    assert found["by_ground"] == {"17(1)(a)": 1, "1798.105": 1, "none": 2}
    assert found["by_outcome"] == {"cancelled": 1, "granted": 1, "open": 1, "refused": 1}
    assert found["by_refusal_ground"] == {"1798.105(d)(1)": 1}
    assert found["by_verdict"] == {"inconclusive": 1}
    assert found["days"] == {"answered": 3, "mean": 0.0, "median": 0.0, "late": 0}
    with account.database.write() as session:
        session.execute(
            update(DeletionRequest)
            .where(DeletionRequest.id == two["id"])
            .values(
                received_at=db.now(session) - timedelta(days=50, hours=2), due_at=db.now(session) - timedelta(days=5)
            )
        )
    days = account.get("/v1/compliance/figures")["days_by_law"]["ccpa"]
    assert days == {"answered": 1, "mean": 50.0, "median": 50.0, "late": 1}
    assert account.get("/v1/compliance/figures", year=2001)["received"] == 0
