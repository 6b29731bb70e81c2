"""The register as PDF and as a workbook: hostile fields are text in both, and what is too long is said."""

from __future__ import annotations

import io
import zipfile
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree

import pytest

from app.cases import pdf, register
from tests.helpers import is_problem
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


KEPT = "\n\t\u202c\u202e"
MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


@pytest.mark.validation
def test_hostile_fields_are_text_in_the_workbook(trained: Trained) -> None:
    account = trained.account
    for number, text in enumerate((*HOSTILE, "\uff1dSUM(A1)", "007", "http://example.org/?a=1&b=<2>")):
        made = trained.delete(trained.ids[2 * number : 2 * number + 2])
        account.post(f"/v1/deletion-requests/{made['id']}:cancel", {"reason": text.replace("\x00", "").strip()[:1900]})
    reply = account.http.get("/v1/compliance/register", params={"form": "xlsx"})
    assert reply.status_code == 200
    assert 'filename="register.xlsx"' in reply.headers["content-disposition"]
    with zipfile.ZipFile(io.BytesIO(reply.content)) as book:
        names = book.namelist()
        sheet = ElementTree.fromstring(book.read("xl/worksheets/sheet1.xml"))
    assert not [name for name in names if "vba" in name.lower() or "external" in name.lower() or "_rels/sheet" in name]
    assert not list(sheet.iter(f"{MAIN}f")), "no cell is a formula"
    assert not list(sheet.iter(f"{MAIN}hyperlink"))
    rows = [
        ["".join(cell.itertext()) for cell in row.iter(f"{MAIN}c") if cell.get("t") == "inlineStr"]
        for row in sheet.iter(f"{MAIN}row")
    ]
    assert rows[0] == list(register.compliance.COLUMNS)
    entries = account.get("/v1/compliance/register")
    assert len(rows) == 1 + len(entries) == 10
    for row, entry in zip(rows[1:], entries, strict=True):
        shown = (each if each.isprintable() or each in KEPT else f"_x{ord(each):04X}_" for each in entry["reason"])
        assert "".join(shown) in row


@pytest.mark.validation
def test_a_register_that_no_workbook_takes_is_refused(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(register, "MOST_ROWS", 1)
    for number in range(2):
        trained.delete(trained.ids[2 * number : 2 * number + 2])
    is_problem(trained.account.http.get("/v1/compliance/register", params={"form": "xlsx"}), 422, "register-too-large")


def test_a_cell_holds_what_programs_take() -> None:
    written = []

    class Sheet:
        def write_string(self, *cell: Any) -> None:
            written.append(cell)

        write_number = write_string

    for value in ("a" * 40_000, None, 3, 2.5, False):
        register._write(Sheet(), 1, 2, value)
    assert written == [(1, 2, "a" * 32_000 + " …"), (1, 2, 3), (1, 2, 2.5), (1, 2, "False")]
