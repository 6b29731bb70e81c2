"""The register as PDF: hostile fields are text in it, and a long one is printed without its entries."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from app.cases import pdf, register
from tests.trained import Trained

ACTIVE = (b"/JavaScript", b"/JS", b"/URI", b"/Launch", b"/EmbeddedFile", b"/GoToR", b"/SubmitForm")
HOSTILE = (
    "<script>alert(1)</script>",
    '=HYPERLINK("http://example.org";"x")',
    "[click](javascript:alert(1)) **bold** # heading",
    "\u202eevil\u202c \u0627\u0644\u0639\u0631\u0628\u064a\u0629 \x00\x07",
    "letter " * 1500,
    "W" * 10_000,
)


def test_hostile_fields_are_text_in_the_pdf(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    account, printed = trained.account, list[list[pdf.Block]]()
    whole = pdf.pages

    def kept(title: str, blocks: Any, **others: Any) -> bytes:
        printed.append(list(blocks))
        return whole(title, printed[-1], **others)

    monkeypatch.setattr(pdf, "pages", kept)
    for number, text in enumerate(HOSTILE):
        made = trained.delete(trained.ids[2 * number : 2 * number + 2])
        account.post(f"/v1/deletion-requests/{made['id']}:cancel", {"reason": text.replace("\x00", "").strip()[:1900]})
    reply = account.http.get("/v1/compliance/register", params={"form": "pdf"})
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/pdf")
    assert reply.content.startswith(b"%PDF")
    assert not [name for name in ACTIVE if name in reply.content]
    (blocks,) = printed
    entries = [each for each in blocks if isinstance(each, str) and each.startswith("request: del_")]
    assert len(entries) == len(HOSTILE)
    assert "reason: <script>alert(1)</script>" in entries[0]
    assert all(len(line) < 600 for each in entries for line in each.split("\n"))
    year = datetime.now(UTC).year
    assert account.http.get("/v1/compliance/register", params={"form": "pdf", "year": year - 1}).status_code == 200


@pytest.mark.validation
def test_a_long_register_is_printed_without_its_entries(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(register, "MOST_PRINTED", 0)
    said: list[pdf.Block] = []
    monkeypatch.setattr(pdf, "pages", lambda _, blocks, **__: said.extend(blocks) or b"%PDF")
    trained.delete(trained.ids[:2])
    assert trained.account.http.get("/v1/compliance/register", params={"form": "pdf"}).content == b"%PDF"
    assert "The register as CSV has them all." in str(said[-1])
    assert "del_" not in str(said)
