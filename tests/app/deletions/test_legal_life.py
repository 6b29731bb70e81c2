"""The legal life of a request: when it was received, who it is, who decides, what is said, and when it is over."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from app.core.tables import AuditEvent, CaseDetails, DeletionRequest, Receipt
from app.deletions import retention
from app.evidence.signing import canonical
from tests.helpers import is_problem
from tests.support import Account, Document
from tests.trained import Trained

REQUESTS = "/v1/deletion-requests"
TODAY = datetime.now(UTC).date()


def day(shift: int) -> str:
    return (TODAY + timedelta(days=shift)).isoformat()


def second_person(account: Account) -> dict[str, str]:
    made = account.post("/v1/api-keys", {"name": "the second officer", "scopes": ["read", "request"]})
    return {"Authorization": f"Bearer {made['token']}"}


def refused(trained: Trained, kind: str, status: int = 422, **fields: Any) -> Document:
    body = {"dataset": trained.dataset, "sample_ids": trained.ids[:2], **fields}
    return is_problem(trained.account.http.post(REQUESTS, json=body), status, kind)


# -- received --------------------------------------------------------------------------------------


def test_the_clock_runs_from_the_day_the_letter_came(trained: Trained) -> None:
    came = TODAY - timedelta(days=9)
    made = trained.delete(
        trained.ids[:2], received_at=came.isoformat(), received_reason="it lay at reception", reference="letter 17"
    )
    assert made["received_at"] == f"{came.isoformat()}T00:00:00Z"
    assert made["posted_at"][:10] in (day(0), day(1))
    assert made["due_at"] == next_working_month(came)
    assert made["reference"] == "letter 17"
    assert trained.request(made) == made
    listed = trained.account.get(REQUESTS, reference="letter 17")["items"]
    assert [item["id"] for item in listed] == [made["id"]]
    assert trained.account.get(REQUESTS, reference="letter 1")["items"] == []


def next_working_month(received: date) -> str:
    """Bare gdpr: walked day by day, without the code's arithmetic."""
    at, number = received, received.day
    while True:
        at += timedelta(days=1)
        if at.day == number or (at.day < number and (at + timedelta(days=1)).day == 1):
            break
    while at.isoweekday() > 5:
        at += timedelta(days=1)
    return f"{at.isoformat()}T23:59:59Z"


def test_a_date_that_cannot_be_is_refused_in_words(shared: Trained) -> None:
    why = {"received_reason": "late"}
    assert "future" in refused(shared, "received-in-future", received_at=day(2), **why)["detail"]
    after = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    refused(shared, "received-in-future", received_at=after)
    before = refused(shared, "received-before-law", received_at="2018-05-24", **why)
    assert "2018-05-25" in before["detail"]
    refused(shared, "received-before-law", received_at="2019-12-31", jurisdiction="ccpa", **why)
    assert "why" in refused(shared, "received-reason-missing", received_at=day(-3))["detail"]
    for nonsense in ("2026-02-30", "yesterday", "2026-02-03T10:00:00"):
        refused(shared, "schema", received_at=nonsense, **why)


def test_the_ground_is_one_of_its_law(shared: Trained) -> None:
    found = refused(shared, "schema", ground="1798.105")
    assert "17(1)(a)" in found["errors"][0]["detail"]
    refused(shared, "schema", ground="17(1)(a)", jurisdiction="ccpa")


@pytest.mark.validation
def test_a_reference_that_is_a_formula_stays_text(trained: Trained) -> None:
    reference = '=HYPERLINK("mailto:anna@example.org")'
    made = trained.delete(trained.ids[:2], reference=reference, ground="17(1)(b)")
    assert trained.request(made)["reference"] == reference
    register = trained.account.http.get("/v1/compliance/register", headers={"Accept": "text/csv"}).text
    assert "'=HYPERLINK" in register
    assert ",=HYPERLINK" not in register
    assert '"=HYPERLINK' not in register


@pytest.mark.validation
def test_a_confirmation_is_marked_once(trained: Trained) -> None:
    made = trained.delete(trained.ids[:2], jurisdiction="ccpa", received_at=day(-4), received_reason="by post")
    where = f"{REQUESTS}/{made['id']}:confirm"
    assert made["confirm_by"] is not None
    is_problem(trained.account.http.post(where, json={"at": day(-9)}), 422, "outside-the-request")
    is_problem(trained.account.http.post(where, json={"at": day(3)}), 422, "outside-the-request")
    assert trained.account.post(where, {"at": day(-1)})["confirmed_at"][:10] in (day(-1), day(-2))
    is_problem(trained.account.http.post(where, json={}), 409, "confirmed-already")


# -- identity --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("law", "moves"), [("gdpr", "stops"), ("uk-gdpr", "restarts"), ("ccpa", "runs")])
def test_a_proof_of_identity_holds_the_request_and_moves_the_clock_as_its_law_says(
    trained: Trained, law: str, moves: str
) -> None:
    made = trained.delete(
        trained.ids[:2], jurisdiction=law, received_at=f"{day(-6)}T12:00:00Z", received_reason="by post"
    )
    where = f"{REQUESTS}/{made['id']}:identity"
    asked = trained.account.post(
        where, {"status": "asked", "at": f"{day(-5)}T12:00:00Z", "until": day(10), "note": "wrote to Anna"}
    )
    assert asked["status"] == "held"
    assert asked["identity"]["until"][:10] in (day(10), day(11))
    assert trained.account.work() == 0
    later = asked["due_at"] > made["due_at"]
    assert later == (moves != "runs")
    shown = trained.account.post(where, {"status": "confirmed", "at": f"{day(-2)}T12:00:00Z"})
    assert shown["status"] in ("processing", "accepted")
    if moves == "runs":
        assert shown["due_at"] == made["due_at"]
    else:
        assert made["due_at"] <= shown["due_at"] <= asked["due_at"]
        first = datetime.fromisoformat(made["due_at"])
        shift = (datetime.fromisoformat(shown["due_at"]) - first).days
        assert 0 <= shift <= (3 if moves == "stops" else 4) + 5
    is_problem(trained.account.http.post(where, json={"status": "refused"}), 409, "identity-not-asked")
    assert trained.account.work() > 0
    assert trained.request(made)["status"] == "fulfilled"


@pytest.mark.validation
def test_a_pause_has_an_end(trained: Trained) -> None:
    made = trained.delete(trained.ids[:2])
    where = f"{REQUESTS}/{made['id']}:identity"
    for until in ({}, {"until": day(0)}, {"until": day(-1)}, {"until": day(200)}):
        found = is_problem(
            trained.account.http.post(where, json={"status": "asked", **until}), 422, "pause-without-end"
        )
        assert "end" in found["detail"]
    assert trained.request(made)["identity"]["status"] == "not-needed"


@pytest.mark.validation
def test_an_identity_that_never_came_is_a_ground_of_refusal(trained: Trained) -> None:
    made = trained.delete(trained.ids[:2], reference="ticket 4")
    where = f"{REQUESTS}/{made['id']}"
    trained.account.post(f"{where}:identity", {"status": "asked", "until": day(14)})
    is_problem(trained.account.http.post(f"{where}:release"), 409, "identity-open")
    trained.account.post(f"{where}:identity", {"status": "refused"})
    is_problem(trained.account.http.post(f"{where}:release"), 409, "identity-open")
    ended = trained.account.post(f"{where}:refuse", {"reason": "no proof came", "ground": "12(2)"})
    assert (ended["status"], ended["refusal_ground"]) == ("refused", "12(2)")
    wrong = trained.account.http.post(f"{where}:refuse", json={"reason": "x", "ground": "1798.145"})
    assert is_problem(wrong, 422, "ground-unknown")["detail"].count("17(3)(e)") == 1


# -- who -------------------------------------------------------------------------------------------


def test_two_people_refuse(trained: Trained) -> None:
    account = trained.account
    rules = account.get("/v1/compliance/rules")
    account.http.put("/v1/compliance/rules", json=rules | {"two_people_on_refusal": True}).raise_for_status()
    made = trained.delete(trained.ids[:2])
    where = f"{REQUESTS}/{made['id']}"
    is_problem(account.http.post(f"{where}:approve"), 409, "nothing-proposed")
    first = account.post(f"{where}:refuse", {"reason": "a lawsuit", "ground": "17(3)(e)"})
    assert first["status"] != "refused"
    assert first["proposal"]["ground"] == "17(3)(e)"
    for verb in ("refuse", "cancel", "hold"):
        waits = account.http.post(f"{where}:{verb}", json={"reason": "again"})
        assert "second person" in is_problem(waits, 409, "decision-waits")["detail"]
    is_problem(account.http.post(f"{where}:approve"), 409, "same-person")
    other = second_person(account)
    ended = account.post(f"{where}:approve", {}, None, **other)
    assert (ended["status"], ended["reason"], ended["proposal"]) == ("refused", "a lawsuit", None)
    entries = account.get(f"{where}/history")["entries"]
    assert [each["kind"] for each in entries][-2:] == ["request.refusal-proposed", "request.refused"]
    assert entries[-1]["actor_name"] == "the second officer"
    assert entries[-1]["data"]["proposed_by"] == entries[-2]["actor"] != entries[-1]["actor"]


@pytest.mark.validation
def test_a_proposed_refusal_can_be_dismissed(trained: Trained) -> None:
    account = trained.account
    account.http.put("/v1/compliance/rules", json={"two_people_on_refusal": True}).raise_for_status()
    made = trained.delete(trained.ids[:3])
    where = f"{REQUESTS}/{made['id']}"
    account.post(f"{where}:refuse", {"reason": "these", "sample_ids": trained.ids[:1]})
    assert account.post(f"{where}:dismiss", {"reason": "no such lawsuit"})["proposal"] is None
    account.work()
    assert trained.request(made)["samples"] == 3


def test_every_event_of_a_request_names_its_actor_and_the_log_has_no_free_words(trained: Trained) -> None:
    made = trained.forget(trained.ids[:2], received_at=day(-1), received_reason="came by post", reference="anna@x.org")
    trained.account.post(f"{REQUESTS}/{made['id']}:confirm", {})
    entries = trained.account.get(f"{REQUESTS}/{made['id']}/history")["entries"]
    assert {each["kind"] for each in entries} >= {"request.accepted", "request.published", "request.fulfilled"}
    assert all(each["actor"] for each in entries)
    assert entries[0]["actor_name"] == "first key"
    assert {each["actor"] for each in entries if each["kind"] == "request.fulfilled"} == {"service"}
    other = trained.delete(trained.ids[5:7])
    trained.account.post(f"{REQUESTS}/{other['id']}:extend", {"reason": "Anna sent three hundred letters"})
    with trained.account.database.read() as session:
        text = b"".join(canonical(row.data) for row in session.query(AuditEvent))
    assert b"Anna" not in text
    assert b"anna@" not in text
    (said,) = [
        each
        for each in trained.account.get(f"{REQUESTS}/{other['id']}/history")["entries"]
        if each["kind"] == "request.extended"
    ]
    assert said["reason"] == "Anna sent three hundred letters"
    assert said["actor_name"] == "first key"
    assert said["data"]["due_at"] > said["data"]["was_due_at"]


# -- complaints ------------------------------------------------------------------------------------


def test_a_complaint_reopens_a_refused_request(trained: Trained) -> None:
    made = trained.delete(trained.ids[:2])
    body = {"dataset": trained.dataset, "complaint_about": made["id"]}
    is_problem(trained.account.http.post(REQUESTS, json=body), 409, "complaint-about-open")
    trained.account.post(f"{REQUESTS}/{made['id']}:refuse", {"reason": "a lawsuit", "ground": "17(3)(e)"})
    again = trained.account.post(REQUESTS, body)
    assert (again["complaint_about"], again["samples"]) == (made["id"], 2)
    assert [each["id"] for each in trained.account.get(REQUESTS, complaint_about=made["id"])["items"]] == [again["id"]]
    trained.account.work()
    assert trained.request(again)["status"] == "fulfilled"


@pytest.mark.validation
def test_a_complaint_about_an_erasure_looks_once_more(trained: Trained) -> None:
    made = trained.forget(trained.ids[:2])
    again = trained.account.post(REQUESTS, {"dataset": trained.dataset, "complaint_about": made["id"]})
    trained.account.work()
    ended = trained.request(again)
    assert ended["status"] == "fulfilled"
    assert ended["outcomes"] == []


# -- three dates -----------------------------------------------------------------------------------


def test_what_is_left_goes_by_the_due_date(trained: Trained) -> None:
    made = trained.forget(trained.ids[:2])
    assert made["status"] == "fulfilled"
    assert made["verdict"] == made["outcomes"][0]["verdict"] == "inconclusive"
    [pool] = trained.account.get("/v1/compliance/remains")["pools"]
    assert (pool["models"], pool["references"]) == ([trained.model], 4)
    assert pool["hours"] > 0
    assert pool["goes_at"] == made["due_at"]
    assert made["model_replaced_at"] <= made["fulfilled_at"] <= made["erasure_complete_at"] <= made["due_at"]
    assert {each["subject"] for each in made["remains"]} == {"superseded-checkpoint", "reference-pool"}
    assert all(each["until"] <= made["due_at"] for each in made["remains"])
    [entry] = trained.account.get("/v1/compliance/register")
    assert entry["verdict"] == "inconclusive"
    assert entry["erasure_complete_at"][:19] == made["erasure_complete_at"][:19]


def test_a_late_request_leaves_nothing(trained: Trained) -> None:
    made = trained.forget(trained.ids[:2], received_at=day(-60), received_reason="found in a drawer")
    assert made["due_at"] < made["fulfilled_at"]
    with trained.account.database.read() as session:
        left = session.query(Receipt).filter(Receipt.request_id == made["id"], Receipt.due_at.is_not(None)).all()
        row = session.get_one(DeletionRequest, made["id"])
        assert row.fulfilled_at is not None
        late = [each.subject for each in left if each.due_at and each.due_at > row.fulfilled_at]
        assert late == ["database"]
    assert retention.retire_due_pools(trained.account.database) == 4
    assert trained.request(made)["status"] in ("fulfilled", "incomplete")


def test_a_later_date_needs_a_reason_and_shows_in_the_status(trained: Trained) -> None:
    made = trained.forget(trained.ids[:2])
    where = f"{REQUESTS}/{made['id']}:keep-remains"
    is_problem(trained.account.http.post(where, json={"until": day(70)}), 422, "schema")
    is_problem(trained.account.http.post(where, json={"until": day(1), "reason": "x"}), 422, "date-outside")
    is_problem(trained.account.http.post(where, json={"until": day(400), "reason": "x"}), 422, "date-outside")
    kept = trained.account.post(where, {"until": day(70), "reason": "the pool takes nine days to build"})
    assert kept["status"] == "incomplete"
    assert kept["erasure_complete_at"][:10] == day(70)
    assert kept["remains_reason"].startswith("the pool")
    assert with_status(trained, "incomplete") == [made["id"]]
    assert with_status(trained, "fulfilled") == []
    counts = trained.account.get("/v1/compliance/summary")["by_status"]
    assert (counts["incomplete"], counts["fulfilled"]) == (1, 0)


def with_status(trained: Trained, status: str) -> list[str]:
    found = trained.account.http.get(REQUESTS, params={"status": status})
    return [each["id"] for each in found.json()["items"]]


@pytest.mark.validation
def test_by_grace_keeps_what_was(trained: Trained) -> None:
    trained.account.http.put("/v1/compliance/rules", json={"remains": "by-grace"}).raise_for_status()
    made = trained.forget(trained.ids[:2])
    assert made["status"] == "incomplete"
    assert max(each["until"] for each in made["remains"]) > made["due_at"]


def test_details_of_a_case_are_apart(trained: Trained) -> None:
    trained.delete(trained.ids[:2], reference="Anna Bauer")
    with trained.account.database.read() as session:
        [row] = session.query(CaseDetails).all()
        assert row.reference == "Anna Bauer"
