"""The legal life of a request: when it was received, who it is, who decides, what is said, and when it is over."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from alembic import command
from sqlalchemy import update

from app.core import db
from app.core.tables import AuditEvent, CaseDetails, DeletionRequest, Receipt, Refusal
from app.deletions import batches, compliance, retention
from app.evidence.signing import canonical
from app.operations import migrate
from tests.app.console.browsing import browser
from tests.helpers import as_other, is_problem
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
@pytest.mark.parametrize("law", ["gdpr", "uk-gdpr", "ccpa"])
def test_a_question_after_the_due_date_revives_no_deadline(trained: Trained, law: str) -> None:
    made = trained.delete(trained.ids[:2], jurisdiction=law, received_at=day(-70), received_reason="it lay in a drawer")
    where = f"{REQUESTS}/{made['id']}"
    asked = account_asked(trained, where, until=day(20))
    assert asked["due_at"] == made["due_at"] < asked["identity"]["asked_at"]
    assert asked["identity"]["moves_due_at"] is False
    shown = trained.account.post(f"{where}:identity", {"status": "confirmed"})
    assert (shown["due_at"], shown["identity"]["moves_due_at"]) == (made["due_at"], False)
    early = trained.delete(trained.ids[2:4], jurisdiction=law, received_at=day(-3), received_reason="by post")
    found = account_asked(trained, f"{REQUESTS}/{early['id']}", until=day(20))["identity"]
    assert found["moves_due_at"] is (law != "ccpa")


def account_asked(trained: Trained, where: str, **fields: Any) -> Document:
    return trained.account.post(f"{where}:identity", {"status": "asked", **fields})


@pytest.mark.validation
def test_a_proof_that_comes_late_is_taken(trained: Trained) -> None:
    """As read: after `refused` there was no way back, and the request could only be cancelled."""
    made = trained.delete(trained.ids[:2])
    where = f"{REQUESTS}/{made['id']}"
    account_asked(trained, where, until=day(14))
    ended = trained.account.post(f"{where}:identity", {"status": "refused"})
    is_problem(trained.account.http.post(f"{where}:identity", json={"status": "refused"}), 409, "identity-not-asked")
    shown = trained.account.post(f"{where}:identity", {"status": "confirmed", "note": "came in person"})
    assert (shown["identity"]["status"], shown["due_at"]) == ("confirmed", ended["due_at"])
    assert shown["identity"]["ended_at"] == ended["identity"]["ended_at"]
    trained.account.work()
    assert trained.request(made)["status"] == "fulfilled"


def test_a_wait_that_is_over_is_told_once(trained: Trained) -> None:
    account = trained.account
    made, other = trained.delete(trained.ids[:2]), trained.delete(trained.ids[2:4])
    for each in (made, other):
        account_asked(trained, f"{REQUESTS}/{each['id']}", until=day(5))
    assert compliance.notice_waits(account.database) == 0
    with account.database.write() as session:
        row = session.get_one(DeletionRequest, made["id"])
        row.identity_until = db.now(session) - timedelta(seconds=1)
    assert [compliance.notice_waits(account.database) for _ in range(2)] == [1, 0]
    kinds = {each["id"]: history(account, each) for each in (made, other)}
    assert kinds[made["id"]].count("request.identity-wait-over") == 1
    assert "request.identity-wait-over" not in kinds[other["id"]]


def history(account: Account, request: Document) -> list[str]:
    return [each["kind"] for each in account.get(f"{REQUESTS}/{request['id']}/history")["entries"]]


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
    for key in account.get("/v1/api-keys")["items"]:  # rotated, it is the same person's
        rotated = account.post(f"/v1/api-keys/{key['id']}:rotate", {"overlap_seconds": 3600}, 201)
        again = account.post(f"/v1/api-keys/{rotated['id']}:rotate", {"overlap_seconds": 3600}, 201)
        for each in (rotated, again):
            own = {"Authorization": f"Bearer {each['token']}"}
            is_problem(account.http.post(f"{where}:approve", headers=own), 409, "same-person")
    other = second_person(account)
    ended = account.post(f"{where}:approve", {}, None, **other)
    assert (ended["status"], ended["reason"], ended["proposal"]) == ("refused", "a lawsuit", None)
    entries = account.get(f"{where}/history")["entries"]
    assert [each["kind"] for each in entries][-2:] == ["request.refusal-proposed", "request.refused"]
    assert entries[-1]["actor_name"] == "the second officer"
    assert entries[-1]["data"]["proposed_by"] == entries[-2]["actor"] != entries[-1]["actor"]


def two_people(account: Account) -> None:
    account.http.put("/v1/compliance/rules", json={"two_people_on_refusal": True}).raise_for_status()


def test_a_proposed_refusal_stops_the_erasure(trained: Trained) -> None:
    """As read: a worker erased the evidence that the refusal was to keep, while it waited for its second person."""
    account = trained.account
    two_people(account)
    made = trained.delete(trained.ids[:3])
    where = f"{REQUESTS}/{made['id']}"
    proposed = account.post(f"{where}:refuse", {"reason": "evidence of a lawsuit", "ground": "17(3)(e)"})
    assert (proposed["status"], proposed["samples"]) == ("held", 3)
    assert "second person" in proposed["reason"]
    assert account.work() == 0
    batches.close_due(account.database)
    assert account.work() == 0
    gone_on = account.post(f"{where}:dismiss", {"reason": "no such lawsuit"})
    assert gone_on["status"] in ("processing", "accepted")
    assert gone_on["reason"] is None
    account.work()
    assert trained.request(made)["status"] == "fulfilled"


@pytest.mark.validation
def test_the_rest_of_a_request_goes_on_once_a_part_is_refused_by_two(trained: Trained) -> None:
    account = trained.account
    two_people(account)
    made = trained.delete(trained.ids[:3])
    where = f"{REQUESTS}/{made['id']}"
    account.post(f"{where}:refuse", {"reason": "a lawsuit", "sample_ids": trained.ids[:1]})
    assert account.work() == 0
    approved = account.post(f"{where}:approve", {}, None, **second_person(account))
    assert approved["status"] in ("processing", "accepted")
    account.work()
    ended = trained.request(made)
    assert (ended["status"], ended["samples"], ended["samples_refused"]) == ("fulfilled", 2, 1)
    assert trained.ids[0] in account.training_ids(trained.dataset)


@pytest.mark.validation
def test_a_proposal_gives_no_hold_away(trained: Trained) -> None:
    """A legal hold outlives it, and a proof of identity that comes meanwhile lets nothing be erased."""
    account = trained.account
    two_people(account)
    first, second = trained.delete(trained.ids[:2]), trained.delete(trained.ids[2:4])
    one, two = (f"{REQUESTS}/{each['id']}" for each in (first, second))
    account.post(f"{one}:hold", {"reason": "a court asked for it"})
    account.post(f"{two}:identity", {"status": "asked", "until": day(10)})
    for where in (one, two):
        account.post(f"{where}:refuse", {"reason": "a lawsuit"})
    assert account.post(f"{two}:identity", {"status": "confirmed"})["status"] == "held"
    assert account.work() == 0
    still = account.post(f"{one}:dismiss", {"reason": "no lawsuit"})
    assert (still["status"], still["reason"]) == ("held", "a court asked for it")
    assert account.post(f"{two}:dismiss", {"reason": "no lawsuit"})["status"] in ("processing", "accepted")
    account.work()
    assert (trained.request(first)["status"], trained.request(second)["status"]) == ("held", "fulfilled")


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


# -- refusals --------------------------------------------------------------------------------------


def refused_in_two_parts(trained: Trained) -> tuple[str, Document]:
    made = trained.delete(trained.ids[:5])
    where = f"{REQUESTS}/{made['id']}"
    first = {"reason": "a lawsuit", "ground": "17(3)(e)", "sample_ids": trained.ids[:2]}
    trained.account.post(f"{where}:refuse", first)
    trained.account.post(f"{where}:hold", {"reason": "a court asked for it"})
    second = {"reason": "a register that the law asks for", "ground": "17(3)(b)", "sample_ids": trained.ids[2:3]}
    trained.account.post(f"{where}:refuse", second)
    return where, trained.account.post(f"{where}:release", {})


def test_each_refusal_keeps_its_samples_ground_and_reason(trained: Trained) -> None:
    """As read: a second refusal took the place of the first, and the end of a hold took the reason of both."""
    account = trained.account
    where, shown = refused_in_two_parts(trained)
    found = [(each["samples"], each["ground"], each["reason"], each["late"]) for each in shown["refusals"]]
    assert found == [
        (2, "17(3)(e)", "a lawsuit", False),
        (1, "17(3)(b)", "a register that the law asks for", False),
    ]
    assert all(each["by"].startswith("key_") and each["letter_sent_at"] is None for each in shown["refusals"])
    assert (shown["samples"], shown["samples_refused"], shown["reason"]) == (2, 3, None)
    assert account.get(REQUESTS)["items"][0]["refusals"] == account.get(where)["refusals"] == shown["refusals"]
    [entry] = account.get("/v1/compliance/register")
    assert entry["refusal_ground"] == "17(3)(e), 17(3)(b)"
    assert entry["refusal_reason"] == "a lawsuit; a register that the law asks for"
    assert entry["refused_late"] is False
    figures = account.get("/v1/compliance/figures")
    assert (figures["by_refusal_ground"], figures["refused_late"]) == ({"17(3)(b)": 1, "17(3)(e)": 1}, 0)
    assert account.get("/v1/compliance/figures", year=2001)["by_refusal_ground"] == {}


@pytest.mark.validation
def test_a_letter_of_refusal_speaks_of_what_was_not_told_yet(trained: Trained) -> None:
    account = trained.account
    where, _ = refused_in_two_parts(trained)
    both = account.post(f"{where}/notices", {"kind": "refusal"})
    for said in ("3 of the items", "a lawsuit", "17(3)(e): ", "a register that the law asks for", "17(3)(b): "):
        assert said in both["body"], said
    before = account.get(where)
    account.post(f"{where}/notices/{both['id']}:sent", {"how": "letter"})
    after = account.get(where)
    assert all(each["letter_sent_at"] for each in after["refusals"])
    assert after["answered_at"] is None, "a part of it is still open"
    assert before["refusals"] != after["refusals"]
    account.post(f"{where}:refuse", {"reason": "another lawsuit", "sample_ids": trained.ids[3:4]})
    third = account.post(f"{where}/notices", {"kind": "refusal"})
    assert "another lawsuit" in third["body"]
    assert "a register" not in third["body"]
    assert "1 of the items" in third["body"]
    account.work()
    assert account.get(where)["status"] == "fulfilled"
    done = account.post(f"{where}/notices", {"kind": "completion"})
    assert "4 of the items that you asked about stay with us" in done["body"]


@pytest.mark.validation
def test_a_refusal_after_its_time_is_possible_and_marked(trained: Trained) -> None:
    """The person must hear it all the same; the register says that it came late."""
    account = trained.account
    made = trained.delete(trained.ids[:2], received_at=day(-60), received_reason="it lay in a drawer")
    extended = trained.delete(trained.ids[2:4])
    account.post(f"{REQUESTS}/{extended['id']}:extend", {"reason": "three hundred letters"})
    with account.database.write() as session:  # in its second month: in time for an answer, late for a refusal
        row = session.get_one(DeletionRequest, extended["id"])
        row.received_at -= timedelta(days=45)
    for each in (made, extended):
        refused_ = account.post(f"{REQUESTS}/{each['id']}:refuse", {"reason": "a lawsuit", "ground": "17(3)(e)"})
        assert refused_["status"] == "refused"
        assert [one["late"] for one in refused_["refusals"]] == [True]
        entries = account.get(f"{REQUESTS}/{each['id']}/history")["entries"]
        assert entries[-1]["data"]["late"] is True
    assert [entry["refused_late"] for entry in account.get("/v1/compliance/register")] == [True, True]
    assert account.get("/v1/compliance/figures")["refused_late"] == 2
    in_time = trained.delete(trained.ids[4:6])
    account.post(f"{REQUESTS}/{in_time['id']}:refuse", {"reason": "a lawsuit"})
    assert account.get("/v1/compliance/figures")["refused_late"] == 2


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
def test_a_complaint_about_a_refused_part_reopens_that_part(trained: Trained) -> None:
    """As read: it reopened the samples that had been granted."""
    account = trained.account
    _, shown = refused_in_two_parts(trained)
    account.work()
    body = {"dataset": trained.dataset, "complaint_about": shown["id"]}
    again = account.post(REQUESTS, body)
    assert again["samples"] == 3
    is_problem(account.http.post(REQUESTS, json=body), 409, "sample-requested")
    assert set(trained.ids[:3]) <= set(account.training_ids(trained.dataset))
    account.work()
    assert trained.request(again)["status"] == "fulfilled"
    assert set(trained.ids[:5]).isdisjoint(account.training_ids(trained.dataset))


@pytest.mark.validation
def test_a_complaint_about_a_part_that_nobody_kept_names_its_samples(trained: Trained) -> None:
    """Versions before kept no samples of a partial refusal."""
    account = trained.account
    _, shown = refused_in_two_parts(trained)
    with account.database.write() as session:
        session.execute(update(Refusal).values(positions=None))
    body = {"dataset": trained.dataset, "complaint_about": shown["id"]}
    asked = is_problem(account.http.post(REQUESTS, json=body), 409, "refused-samples-unknown")
    assert "sample_ids" in asked["detail"]
    assert account.post(REQUESTS, body | {"sample_ids": trained.ids[:2]})["samples"] == 2


@pytest.mark.validation
def test_a_complaint_about_a_request_refused_in_steps_reopens_all_of_it(trained: Trained) -> None:
    account = trained.account
    where, shown = refused_in_two_parts(trained)
    account.post(f"{where}:refuse", {"reason": "a lawsuit"})
    again = account.post(REQUESTS, {"dataset": trained.dataset, "complaint_about": shown["id"]})
    assert again["samples"] == 5


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


# -- answers ---------------------------------------------------------------------------------------


def test_the_register_says_how_a_request_came_and_when_its_answer_went(trained: Trained) -> None:
    account = trained.account
    made = trained.forget(
        trained.ids[:2], channel="letter", received_at=day(-20), received_reason="by post", reference="letter 3"
    )
    where = f"{REQUESTS}/{made['id']}"
    assert (made["channel"], made["answered_at"]) == ("letter", None)
    [entry] = account.get("/v1/compliance/register")
    assert (entry["channel"], entry["answered_at"], entry["answered_how"]) == ("letter", None, None)
    assert 20 <= entry["days"] < 21
    with account.database.write() as session:  # it was carried out ten days before the letter went
        row = session.get_one(DeletionRequest, made["id"])
        row.fulfilled_at = row.fulfilled_at and row.fulfilled_at - timedelta(days=10)
    assert 10 <= account.get("/v1/compliance/register")[0]["days"] < 11
    notice = account.post(f"{where}/notices", {"kind": "completion"})
    account.post(f"{where}/notices/{notice['id']}:sent", {"how": "registered letter"})
    [entry] = account.get("/v1/compliance/register")
    assert entry["answered_how"] == "registered letter"
    assert entry["answered_at"] == account.get(where)["answered_at"][:19] + "Z"
    assert 20 <= entry["days"] < 21
    assert account.get("/v1/compliance/figures")["days"]["mean"] == 20.0
    assert 20 <= account.get("/v1/compliance/summary")["mean_days"] < 21


@pytest.mark.validation
def test_an_answer_is_late_if_its_letter_is(trained: Trained) -> None:
    account = trained.account
    made = trained.forget(trained.ids[:2])
    notice = account.post(f"{REQUESTS}/{made['id']}/notices", {"kind": "completion"})
    with account.database.write() as session:
        row = session.get_one(DeletionRequest, made["id"])
        assert row.fulfilled_at is not None
        row.due_at = row.fulfilled_at + timedelta(microseconds=1)
    assert account.get("/v1/compliance/figures")["days"]["late"] == 0
    account.post(f"{REQUESTS}/{made['id']}/notices/{notice['id']}:sent", {"how": "letter"})
    assert account.get("/v1/compliance/figures")["days"]["late"] == 1
    assert account.get("/v1/compliance/summary")["answered_late"] == 1


def test_a_letter_of_new_years_day_counts_in_its_year(trained: Trained) -> None:
    """As read: 1 January in Berlin was stored as 23:00 of 31 December, and counted a year early."""
    account, year = trained.account, TODAY.year
    came = {"received_at": f"{year}-01-01", "received_reason": "by post", "jurisdiction": "gdpr:DE"}
    made = trained.delete(trained.ids[:2], **came)
    assert made["received_at"] == f"{year - 1}-12-31T23:00:00Z"
    account.post(f"{REQUESTS}/{made['id']}:refuse", {"reason": "a lawsuit", "ground": "17(3)(e)"})
    last = trained.delete(trained.ids[2:4], **came | {"jurisdiction": "ccpa", "received_at": f"{year}-01-01T05:00:00Z"})
    [entry] = account.get("/v1/compliance/register", year=year)
    assert (entry["request"], entry["received_on"]) == (made["id"], f"{year}-01-01")
    [other] = account.get("/v1/compliance/register", year=year - 1)
    assert (other["request"], other["received_on"]) == (last["id"], f"{year - 1}-12-31")
    for name in ("figures", "summary"):
        received = [account.get(f"/v1/compliance/{name}", year=one)["received"] for one in (year - 1, year)]
        assert received == [1, 1], name
    assert account.get("/v1/compliance/figures", year=year)["by_refusal_ground"] == {"17(3)(e)": 1}
    assert account.get("/v1/compliance/summary", year=year)["by_status"]["refused"] == 1


def test_decisions_without_a_letter_are_listed_and_shown_today(trained: Trained) -> None:
    account = trained.account
    extended, part, plain = (trained.delete(trained.ids[n : n + 2]) for n in (0, 2, 4))
    account.post(f"{REQUESTS}/{extended['id']}:extend", {"reason": "three hundred letters"})
    refusal = {"reason": "a lawsuit", "sample_ids": trained.ids[2:3]}
    account.post(f"{REQUESTS}/{part['id']}:refuse", refusal)

    def missing() -> list[str]:
        return sorted(row["id"] for row in account.get(REQUESTS, letter_missing=True)["items"])

    assert missing() == sorted([extended["id"], part["id"]])
    theirs = account.http.get(REQUESTS, params={"letter_missing": True}, headers=as_other(account))
    assert theirs.json()["items"] == []
    with browser(account.http.app, account.database, "officer") as officer:
        assert officer.open("/console").has("Extension or refusal without a letter sent")
        for each, kind in ((extended, "extension"), (part, "refusal")):
            where = f"{REQUESTS}/{each['id']}/notices"
            notice = account.post(where, {"kind": kind})
            account.post(f"{where}/{notice['id']}:sent", {"how": "letter"})
        assert not officer.open("/console").has("Extension or refusal without a letter sent")
    assert missing() == []
    shown = account.get(f"{REQUESTS}/{extended['id']}")
    assert shown["extension_sent_at"] is not None
    [entry] = account.get("/v1/compliance/register")[:1]
    assert entry["extension_sent_at"] is not None
    assert plain["extension_sent_at"] is None


@pytest.mark.validation
def test_what_a_version_before_recorded_is_kept_in_the_new_columns(trained: Trained) -> None:
    account, year = trained.account, TODAY.year
    where, _ = refused_in_two_parts(trained)
    letter = account.post(f"{where}/notices", {"kind": "refusal"})
    account.post(f"{where}/notices/{letter['id']}:sent", {"how": "letter"})
    account.work()
    done = account.post(f"{where}/notices", {"kind": "completion"})
    account.post(f"{where}/notices/{done['id']}:sent", {"how": "e-mail"})
    came = {"received_at": f"{year}-01-01", "received_reason": "by post", "jurisdiction": "gdpr:DE"}
    refused_whole = trained.delete(trained.ids[8:10], **came)
    account.post(f"{REQUESTS}/{refused_whole['id']}:refuse", {"reason": "a lawsuit", "ground": "17(3)(e)"})
    before = [account.get(f"/v1/compliance/{name}") for name in ("register", "figures")]
    of_year = account.get("/v1/compliance/figures", year=year)
    with account.database.engine.connect().execution_options(lethe_write=True) as connection, connection.begin():
        config = migrate._config()
        config.attributes["connection"] = connection
        command.downgrade(config, "0019")
        command.upgrade(config, "head")
    after = [account.get(f"/v1/compliance/{name}") for name in ("register", "figures")]
    for entry in before[0]:
        entry["refused_late"] = False  # one that came late was not taken then
    assert after[0] == before[0]
    assert after[1] | {"refused_late": 1} == before[1]
    assert account.get("/v1/compliance/figures", year=year)["received"] == of_year["received"]
    assert all(each["letter_sent_at"] for each in account.get(where)["refusals"])
    whole = {"dataset": trained.dataset, "complaint_about": refused_whole["id"]}
    assert account.post(REQUESTS, whole)["samples"] == 2
    part = {"dataset": trained.dataset, "complaint_about": where.rpartition("/")[2]}
    is_problem(account.http.post(REQUESTS, json=part), 409, "refused-samples-unknown")


def test_what_is_still_to_be_said_is_listed_the_earliest_date_first(trained: Trained) -> None:
    account = trained.account

    def listed(path: str = REQUESTS, **filters: object) -> list[Document]:
        rows, token = [], None
        while True:
            found = account.get(path, **filters, page_size=1, page_token=token)
            rows += found["items"]
            token = found["next_page_token"]
            if token is None:
                return rows

    came = {"jurisdiction": "ccpa", "received_reason": "by post"}
    days = [(TODAY - timedelta(days=n)).isoformat() for n in (3, 17, 10)]
    made = [trained.delete([trained.ids[n]], received_at=day, **came)["id"] for n, day in enumerate(days)]
    trained.delete(trained.ids[5:6])  # under a law that wants no confirmation
    assert [row["id"] for row in listed(confirm_pending=True)] == [made[1], made[2], made[0]]
    account.post(f"{REQUESTS}/{made[2]}:confirm", {})
    assert [row["id"] for row in listed(confirm_pending=True)] == [made[1], made[0]]
    is_problem(account.http.get(REQUESTS, params={"confirm_pending": True, "model": trained.model}), 422, "schema")
    assert listed(answer_missing=True) == []
    account.work()
    assert listed(confirm_pending=True) == []
    unsaid = listed(answer_missing=True)
    assert len(unsaid) == 4
    at = f"{REQUESTS}/{made[0]}/notices"
    letter = account.post(at, {"kind": "completion"})["id"]
    account.post(f"{at}/{letter}:sent", {"how": "letter"})
    assert {row["id"] for row in listed(answer_missing=True)} == {row["id"] for row in unsaid} - {made[0]}
    theirs = account.http.get(REQUESTS, params={"answer_missing": True}, headers=as_other(account))
    assert theirs.json()["items"] == []
    dated = listed("/v1/receipts", done=False, dated=True)
    assert [row["due_at"] for row in dated] == sorted(row["due_at"] for row in dated)
    assert {row["jurisdiction"] for row in dated} <= {"ccpa", "gdpr"}
    both = [*dated, *listed("/v1/receipts", done=False, dated=False)]
    assert len(both) == len(listed("/v1/receipts", done=False))
