"""Notices, templates, papers: what is rendered, kept, printed and refused."""

from __future__ import annotations

import base64
import logging
from datetime import UTC, date, datetime, timedelta

import pytest

from app.cases import notices, pdf
from app.rules.compliance import Language
from tests.app.cases.sealed import REQUESTS, log_of, sweep
from tests.app.console.browsing import browser
from tests.helpers import as_other, is_problem
from tests.trained import Trained

RULES = {"controller": "Beispiel GmbH\nHauptstraße 1", "contact": "privacy@example.org", "authority": "LfDI"}


@pytest.mark.parametrize("kind", notices.TEXTS)
@pytest.mark.parametrize("language", notices.LANGUAGES)
def test_every_shipped_text_has_known_fields_alone(kind: notices.Text, language: notices.Language) -> None:
    subject, body = notices.shipped(kind, language)
    notices.check(subject)
    notices.check(body)
    rendered = notices.render(body, dict.fromkeys(notices.FIELDS, "X"))
    assert "{{" not in rendered
    assert subject
    if kind in ("extension", "refusal"):  # Art. 12(4): the complaint and the court
        assert "{{authority}}" in body
        assert any(word in body for word in ("court", "Gericht", "tribunal"))
    if kind.endswith("-ccpa"):  # which knows no supervisory authority
        assert "{{authority}}" not in body
        assert not any(word in body for word in ("supervisory", "Aufsichtsbehörde", "autorité de contrôle"))
    if kind == "refusal-ccpa":
        assert "cppa.ca.gov" in body
    if kind == "identity":
        assert {"{{identity_until}}", "{{due_on}}"} <= set(body.split()) | {word.strip(".,") for word in body.split()}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Dear {{name}}", "fields are authority"),
        ("{{request.__class__}}", "unknown"),
        ("<script>alert(1)</script>", "no script"),
        ("<img src=x>", "markup"),
        ("{% for x in y %}", "markup"),
        ("javascript:alert(1)", "script"),
        ("{{request", "ends with"),
    ],
)
def test_a_template_is_plain_text(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        notices.check(text)


def test_a_value_is_never_taken_for_a_field() -> None:
    assert notices.render("{{reason}} {{due_on}}", {"reason": "{{due_on}}", "due_on": "x"}) == "{{due_on}} x"


def test_the_font_has_greek_cyrillic_and_arabic(caplog: pytest.LogCaptureFixture) -> None:
    at = datetime.now(UTC).replace(tzinfo=None)
    with caplog.at_level(logging.WARNING):
        made = pdf.pages("Größe", ["Ελληνικά, Кириллица, العربية", [("née", "žluťoučký kůň")]], foot="f", at=at)
    assert made.startswith(b"%PDF-")
    assert not [each for each in caplog.messages if "glyph" in each.lower()]
    assert made == pdf.pages("Größe", ["Ελληνικά, Кириллица, العربية", [("née", "žluťoučký kůň")]], foot="f", at=at)


def test_a_notice_is_rendered_kept_printed_and_marked_as_sent(trained: Trained) -> None:
    account = trained.account
    account.http.put("/v1/compliance/rules", json=RULES).raise_for_status()
    made = trained.delete(trained.ids[:2], reference="Zeichen Ä-7")
    where = f"{REQUESTS}/{made['id']}"
    for kind in ("extension", "refusal", "completion"):
        is_problem(account.http.post(f"{where}/notices", json={"kind": kind}), 409, "notice-too-early")
    notice = account.post(f"{where}/notices", {"kind": "acknowledgement", "language": "de"})
    assert "Hauptstraße 1" in notice["body"]
    assert "Zeichen Ä-7" in notice["body"]
    assert notices.written(date.fromisoformat(made["due_at"][:10]), "de") in notice["body"]
    printed = account.http.get(f"{where}/notices/{notice['id']}", headers={"Accept": "application/pdf"})
    assert printed.content.startswith(b"%PDF-")
    assert printed.headers["content-disposition"].startswith("attachment")
    sent = account.post(f"{where}/notices/{notice['id']}:sent", {"how": "letter"})
    assert (sent["sent_how"], sent["sent_by"] is not None) == ("letter", True)
    assert account.get(where)["confirmed_at"] is not None
    is_problem(account.http.post(f"{where}/notices/{notice['id']}:sent", json={"how": "fax"}), 409, "sent-already")
    account.http.put("/v1/compliance/rules", json=RULES | {"controller": "Other"}).raise_for_status()
    assert account.get(f"{where}/notices")["notices"] == [sent]
    kinds = [each["kind"] for each in account.get(f"{where}/history")["entries"]]
    assert kinds[-3:] == ["request.notice-made", "request.notice-sent", "request.confirmed"]
    sweep(account)
    assert "Zeichen" not in str(log_of(account))
    is_problem(account.http.get(f"{where}/notices", headers=as_other(account)), 404, "not-found")


def test_a_tenant_has_its_own_words(trained: Trained) -> None:
    account, where = trained.account, "/v1/compliance/templates/refusal/en"
    for fault in ("Dear {{name}}", "<script>x</script>"):
        refused = is_problem(account.http.put(where, json={"subject": "No", "body": fault}), 422, "template")
        assert refused["errors"][0]["pointer"] == "/body"
    account.http.put(where, json={"subject": "No: {{request}}", "body": "{{reason}} / {{ground}}"}).raise_for_status()
    made = trained.delete(trained.ids[:2])
    account.post(f"{REQUESTS}/{made['id']}:refuse", {"reason": "<b>{{due_on}}</b>", "ground": "17(3)(e)"})
    notice = account.post(f"{REQUESTS}/{made['id']}/notices", {"kind": "refusal"})
    assert notice["subject"] == f"No: {made['id']}"
    assert notice["body"] == "<b>{{due_on}}</b> / 17(3)(e): legal claims"
    assert account.http.delete(where).status_code == 204
    assert account.get(where)["updated_at"] is None


@pytest.mark.parametrize(
    ("law", "words", "not_there"),
    [
        ("gdpr:DE", "supervisory authority: LfDI", "cppa"),
        ("ccpa", "California Privacy Protection Agency", "supervisory"),
        ("uk-gdpr", "supervisory authority: LfDI", "cppa"),
    ],
)
def test_a_refusal_says_what_its_law_says(trained: Trained, law: str, words: str, not_there: str) -> None:
    account = trained.account
    account.http.put("/v1/compliance/rules", json=RULES).raise_for_status()
    made = trained.delete(trained.ids[:2], jurisdiction=law)
    account.post(f"{REQUESTS}/{made['id']}:refuse", {"reason": "needed"})
    notice = account.post(f"{REQUESTS}/{made['id']}/notices", {"kind": "refusal"})
    assert words in " ".join(notice["body"].split())
    assert not_there not in notice["body"]
    own = {"subject": "{{request}}", "body": "our own words"}
    account.http.put("/v1/compliance/templates/refusal-ccpa/en", json=own).raise_for_status()
    again = account.post(f"{REQUESTS}/{made['id']}/notices", {"kind": "refusal"})
    assert (again["body"] == "our own words") == (law == "ccpa")


def test_under_the_uk_gdpr_the_authority_is_known(trained: Trained) -> None:
    made = trained.delete(trained.ids[:2], jurisdiction="uk-gdpr")
    trained.account.post(f"{REQUESTS}/{made['id']}:refuse", {"reason": "needed"})
    notice = trained.account.post(f"{REQUESTS}/{made['id']}/notices", {"kind": "refusal"})
    assert "Information Commissioner" in notice["body"]


def test_a_letter_asks_for_the_proof_of_identity(trained: Trained) -> None:
    account = trained.account
    made = trained.delete(trained.ids[:2])
    where = f"{REQUESTS}/{made['id']}"
    is_problem(account.http.post(f"{where}/notices", json={"kind": "identity"}), 409, "notice-too-early")
    until = (datetime.now(UTC) + timedelta(days=14)).date().isoformat()
    asked = account.post(f"{where}:identity", {"status": "asked", "until": until})
    notice = account.post(f"{where}/notices", {"kind": "identity"})
    for day in (until, asked["due_at"][:10]):
        assert notices.written(date.fromisoformat(day), "en") in notice["body"]


@pytest.mark.parametrize(
    ("language", "wanted"), [("en", "1 March 2027"), ("de", "1. März 2027"), ("fr", "1er mars 2027")]
)
def test_dates_in_letters_are_written_as_the_language_has_them(language: Language, wanted: str) -> None:
    """As read: dates of German letters were 2027-03-01."""
    assert notices.written(date(2027, 3, 1), language) == wanted


def test_papers_are_bounded_and_never_shown(trained: Trained) -> None:
    account = trained.account
    made = trained.delete(trained.ids[:2])
    where = f"{REQUESTS}/{made['id']}/papers"
    page = base64.b64encode(b"<html><script>alert(1)</script>").decode()
    paper = account.post(where, {"kind": "letter", "name": "Brief von Anna.html", "content": page})
    got = account.http.get(f"{where}/{paper['id']}")
    assert got.content.startswith(b"<html>")
    assert got.headers["content-type"] == "application/octet-stream"
    assert got.headers["content-disposition"].startswith("attachment")
    assert got.headers["x-content-type-options"] == "nosniff"
    assert "Anna" not in got.headers["content-disposition"]
    large = base64.b64encode(bytes(10 * 2**20)).decode()
    refused = account.http.post(where, json={"kind": "letter", "name": "x", "content": large})
    assert "4 MiB" in is_problem(refused, 413, "too-large")["detail"]
    is_problem(account.http.post(where, json={"kind": "letter", "name": "x", "content": "?"}), 422, "not-base64")
    is_problem(account.http.get(f"{where}/{paper['id']}", headers=as_other(account)), 404, "not-found")
    assert account.http.delete(f"{where}/{paper['id']}").status_code == 204
    assert account.get(where)["papers"] == []


def test_requests_with_a_letter_to_send_are_listed_and_shown_today(trained: Trained) -> None:
    account = trained.account
    first, second = (trained.delete(trained.ids[n : n + 1])["id"] for n in (0, 1))
    made = [account.post(f"{REQUESTS}/{first}/notices", {"kind": "acknowledgement"}, 201)["id"] for _ in range(2)]
    sent = account.post(f"{REQUESTS}/{second}/notices", {"kind": "acknowledgement"}, 201)["id"]
    account.post(f"{REQUESTS}/{second}/notices/{sent}:sent", {"how": "letter"})

    def waiting() -> list[str]:
        return [row["id"] for row in account.get(REQUESTS, notice_unsent=True)["items"]]

    with browser(account.http.app, account.database, "officer") as officer:
        assert waiting() == [first]
        theirs = account.http.get(REQUESTS, params={"notice_unsent": True}, headers=as_other(account))
        assert theirs.json()["items"] == []
        page = officer.open("/console")
        assert page.has("Letter to send 1")
        for notice in made:
            account.post(f"{REQUESTS}/{first}/notices/{notice}:sent", {"how": "letter"})
        assert waiting() == []
        assert officer.open("/console").has("Letter to send 0")
    assert len(account.get(REQUESTS, notice_unsent=False)["items"]) == 2
