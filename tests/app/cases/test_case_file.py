"""The case file: what is in it, and that every copy that was tampered with is refused in the right words."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import warnings
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.api.http.rooms import AddressRates
from app.cases import file
from app.core import db
from app.core.tables import DeletionRequest, Receipt
from app.deletions import retention
from app.evidence import sealing
from app.evidence.certificate import opened, sign
from lethe import verify
from tests.app.cases.sealed import REQUESTS, case_of, faults, parts, sweep, trusted, zipped
from tests.app.cases.test_people import PEOPLE, upload
from tests.helpers import as_other, is_problem
from tests.support import Account, Document
from tests.trained import Trained


@pytest.fixture
def fulfilled(trained: Trained) -> tuple[Trained, str]:
    made = trained.forget(trained.ids[:3], reference="Anna Müller, letter 4", ground="17(1)(b)")
    return trained, made["id"]


@pytest.mark.validation
def test_a_case_file_verifies_and_each_tampered_copy_is_refused(fulfilled: tuple[Trained, str]) -> None:
    trained, request = fulfilled
    account = trained.account
    account.post(f"{REQUESTS}/{request}/notices", {"kind": "completion", "language": "de"})
    early = account.http.get(f"{REQUESTS}/{request}/case-file")
    is_problem(early, 404, "not-found")
    case, keys = case_of(account, request), trusted(account)
    assert faults(case, keys) == {}
    found = parts(case)
    model = trained.model
    assert found.keys() >= {
        "case.pdf", "case.json", "certificate.json", "trust.json", "head.txt", "proof.json", "README.txt", "verify.py",
        f"audit-{model}.json", f"audit-{model}.html", f"policy-{model}.json", "manifest.json",
    }  # fmt: skip
    assert any(name.startswith("notices/not-sent-completion-") for name in found)
    certified = opened(found["certificate.json"].decode())["predicate"]["models"][0]["audit"]["report"]
    assert certified == f"sha256:{verify.hashlib.sha256(found[f'audit-{model}.json']).hexdigest()}"
    assert json.loads(found["case.json"])["request"]["reference"] == "Anna Müller, letter 4"

    left_out = {name: part for name, part in found.items() if name != "case.pdf"}
    assert faults(zipped(left_out), keys) == {"case.pdf": "is left out of the file"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # zipfile's own about the name
        doubled = zipped([*found.items(), ("certificate.json", found["certificate.json"])])
    assert faults(doubled, keys) == {"zip": "certificate.json: this part is in the file twice"}
    renamed = left_out | {"report.pdf": found["case.pdf"]}
    words = faults(zipped(renamed), keys)
    assert "report.pdf has its content: it was renamed" in words["case.pdf"]
    assert "does not name it" in words["report.pdf"]
    swapped = found | {"case.pdf": found["README.txt"]}
    assert faults(zipped(swapped), keys) == {"case.pdf": "has the content of README.txt"}
    for name in set(found) - {"manifest.json"}:
        changed = bytes([found[name][0] ^ 1]) + found[name][1:]
        assert faults(zipped(found | {name: changed}), keys)[name].startswith("is not the part"), name
    assert (
        "signature" in faults(zipped(found | {"manifest.json": forged(found["manifest.json"])}), keys)["manifest.json"]
    )
    assert "missing" in faults(zipped({n: p for n, p in found.items() if n != "manifest.json"}), keys)["manifest.json"]
    assert "not a zip" in faults(case[: len(case) // 2], keys)["zip"]


def forged(envelope: bytes) -> bytes:
    document = json.loads(envelope)
    payload = verify.unbase64(document["payload"]).replace(b"README.txt", b"README.TXT")
    document["payload"] = verify.base64.b64encode(payload).decode()
    return json.dumps(document).encode()


@pytest.mark.validation
def test_parts_of_another_case_are_found(trained: Trained) -> None:
    one, two = trained.forget(trained.ids[:2])["id"], trained.forget(trained.ids[5:8])["id"]
    account = trained.account
    cases = {request: parts(case_of(account, request)) for request in (one, two)}
    keys = trusted(account)
    mixed = cases[one] | {"certificate.json": cases[two]["certificate.json"]}
    words = faults(zipped(mixed), keys)
    assert "another case" in words["certificate.json"]
    assert "not the certificate" in words["certificate.json, case"]
    words = faults(zipped(cases[one] | {"manifest.json": cases[two]["manifest.json"]}), keys)
    assert "not the certificate" in words["certificate.json, case"]
    assert "another case" in words["case.pdf"]


@pytest.mark.validation
def test_refused_extended_and_held_requests_have_signed_records(trained: Trained) -> None:
    account = trained.account
    made = trained.delete(trained.ids[:2])
    where = f"{REQUESTS}/{made['id']}"
    account.post(f"{where}:extend", {"reason": "three hundred letters of Anna"})
    account.post(f"{where}:hold", {"reason": "a lawsuit"})
    account.post(f"{where}:refuse", {"reason": "a lawsuit", "ground": "17(3)(e)"})
    case, keys = case_of(account, made["id"]), trusted(account)
    assert faults(case, keys) == {}
    found = parts(case)
    assert {"decision-1.json", "decision-2.json", "decision-3.json"} <= found.keys()
    assert "certificate.json" not in found
    assert all(b"Anna" not in verify.unbase64(json.loads(found[f"decision-{n}.json"])["payload"]) for n in (1, 2, 3))
    report = verify.verify_case(case, keys)
    assert any("2 samples of it were refused, 17(3)(e)" in line for line in report.says)
    assert any("was extended" in line for line in report.says)
    assert f"at that time the request {made['id']} was refused" in report.says
    swapped = found | {"decision-1.json": found["decision-3.json"]}
    assert faults(zipped(swapped), keys) == {"decision-1.json": "has the content of decision-3.json"}


@pytest.mark.validation
def test_the_command_verifies_a_case_file_alone(fulfilled: tuple[Trained, str], tmp_path: Path) -> None:
    """As a regulator has it: one folder with the zip, its verifier, and the keys from elsewhere."""
    trained, request = fulfilled
    case = case_of(trained.account, request)
    folder = tmp_path / "regulator"
    folder.mkdir()
    (folder / "case.zip").write_bytes(case)
    (folder / "verify.py").write_bytes(parts(case)["verify.py"])
    (folder / "trust.json").write_bytes(trained.account.http.get("/v1/log/keys").content)

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", "verify.py", "case.zip", *options]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True)

    done = run("--trust", "trust.json")
    assert done.returncode == 0, done.stdout
    assert "The case file is verified." in done.stdout
    own = run()
    assert own.returncode == 0
    assert "not checked  keys: give --trust" in own.stdout
    (folder / "case.zip").write_bytes(case[:-30])
    assert run().returncode == 1


@pytest.mark.validation
def test_a_case_file_is_its_tenants(fulfilled: tuple[Trained, str]) -> None:
    trained, request = fulfilled
    case_of(trained.account, request)
    other = as_other(trained.account)
    is_problem(trained.account.http.get(f"{REQUESTS}/{request}/case-file", headers=other), 404, "not-found")


def test_a_certificate_has_a_status(trained: Trained) -> None:
    account = trained.account
    made = trained.forget(trained.ids[:2])
    sweep(account)
    [row] = account.get("/v1/certificates", request=made["id"])["items"]
    where = f"/v1/certificates/{row['digest']}"
    assert account.get(f"{where}/status")["status"] == "valid"
    again = account.post(REQUESTS, {"dataset": trained.dataset, "complaint_about": made["id"]})
    assert account.get(f"{where}/status")["contested_by"] == [again["id"]]
    assert account.get(f"{where}/status")["status"] == "contested"
    account.work()
    assert account.get(f"{where}/status")["status"] == "valid"
    assert account.post(f"{where}:revoke", {"reason": "wrong person"})["status"] == "revoked"
    is_problem(account.http.post(f"{where}:revoke", json={"reason": "again"}), 409, "revoked-already")
    sweep(account)
    entries = account.get("/v1/log/entries", limit=1000)["entries"]
    assert [each["data"]["certificate"] for each in entries if each["kind"] == "certificate.revoked"] == [row["digest"]]


@pytest.mark.validation
def test_online_a_refused_request_has_no_status(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As seen: a file that is whole was NOT VERIFIED, because it has no certificate."""
    account = trained.account
    made = trained.delete(trained.ids[:2])
    account.post(f"{REQUESTS}/{made['id']}:refuse", {"reason": "a lawsuit", "ground": "17(3)(e)"})
    (tmp_path / "case.zip").write_bytes(case_of(account, made["id"]))
    (tmp_path / "trust.json").write_bytes(account.http.get("/v1/log/keys").content)
    options = ["--trust", str(tmp_path / "trust.json"), "--online", "https://lethe.invalid"]
    assert verify.main([str(tmp_path / "case.zip"), *options]) == 0
    assert "not checked  status now" in capsys.readouterr().out


def test_who_holds_a_certificate_asks_without_a_key_how_it_stands(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    account = trained.account
    made = trained.forget(trained.ids[:2])
    case = case_of(account, made["id"])
    digest, stranger = newest(account, made["id"]), TestClient(account.http.app)
    path = f"/v1/certificates/{digest}/status"
    for name, content in {"case.zip": case, "certificate.json": parts(case)["certificate.json"]}.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "trust.json").write_bytes(account.http.get("/v1/log/keys").content)

    class Service(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = stranger.get(self.path)
            self.send_response(found.status_code)
            self.end_headers()
            self.wfile.write(found.content)

        def log_message(self, *_: object) -> None:
            pass

    def told(name: str, url: str) -> tuple[int, str]:
        trust = ["--trust", str(tmp_path / "trust.json")]
        return verify.main([str(tmp_path / name), *trust, "--online", url]), capsys.readouterr().out

    server = HTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    try:
        for name in ("case.zip", "certificate.json"):
            code, words = told(name, url)
            assert (code, "status now: valid, since" in words) == (0, True)
        again = account.post(REQUESTS, {"dataset": trained.dataset, "complaint_about": made["id"]})
        found = stranger.get(path).json()
        assert (found["status"], found["contested_by"]) == ("contested", []), "who complained is nobody's business"
        assert account.get(path)["contested_by"] == [again["id"]]
        account.post(f"/v1/certificates/{digest}:revoke", {"reason": "wrong person"})
        code, words = told("certificate.json", url)
        assert (code, "REVOKED" in words) == (1, True)
    finally:
        server.shutdown()
        server.server_close()
    for reply in [stranger.get(path) for _ in range(40)]:
        if reply.status_code != 200:
            is_problem(reply, 429, "too-many-requests")
            break
    else:
        raise AssertionError("an address asks as often as it likes")
    assert account.get(path)["status"] == "revoked", "a key is not an address"
    stranger.app.state.parts.addresses = AddressRates(rate=1000, most=1000)
    assert told("certificate.json", url)[0] == 1, "who asks wants an answer"
    assert told("certificate.json", "file:///etc/")[0] == 1
    nothing = stranger.get(f"/v1/certificates/sha256:{'0' * 64}/status")
    is_problem(nothing, 404, "not-found")
    foreign = account.http.get(path, headers=as_other(account))
    is_problem(foreign, 404, "not-found")
    is_problem(stranger.get(path, headers={"Authorization": "Bearer lethe_x_y"}), 401, "unauthorized")
    is_problem(stranger.get(path, headers={"Authorization": "Basic eDp5"}), 401, "unauthorized")


def newest(account: Account, request: str) -> str:
    return str(account.get("/v1/certificates", request=request)["items"][0]["digest"])


def says(case: bytes, keys: list[verify.TrustedKey]) -> str:
    """What the command prints of a file that is verified."""
    report = verify.verify_case(case, keys)
    assert report.verified, faults(case, keys)
    return verify.show(report)


def test_a_later_date_of_what_is_left_gets_a_certificate_that_says_so(trained: Trained) -> None:
    """As seen: the old certificate stayed valid and read "in time", while the API said incomplete."""
    account = trained.account
    made = trained.forget(trained.ids[:2])
    assert "NOT COMPLETE" not in says(case_of(account, made["id"]), trusted(account))
    first = newest(account, made["id"])
    until = datetime.now(UTC) + timedelta(days=80)
    body = {"until": f"{until:%Y-%m-%d}", "reason": "the pool takes nine days to build"}
    assert account.post(f"{REQUESTS}/{made['id']}:keep-remains", body)["status"] == "incomplete"
    case, keys = case_of(account, made["id"]), trusted(account)
    assert account.get(f"/v1/certificates/{first}/status")["superseded_by"] == newest(account, made["id"])
    told = says(case, keys)
    assert f"NOT COMPLETE before {until:%Y-%m-%d}" in told
    assert f"what is left of it was given time until {until:%Y-%m-%d}" in told
    document = json.loads(parts(case)["case.json"])
    assert document["request"]["remains_reason"] == body["reason"]
    assert document["request"]["remains_until"][:10] == body["until"]
    sweep(account)
    assert len(account.get("/v1/certificates", request=made["id"])["items"]) == 2, "once"


def test_a_revoked_certificate_is_called_that_by_the_case_file_and_the_verifier(trained: Trained) -> None:
    """As seen: a case file made after the revocation told nothing of it."""
    account = trained.account
    made = trained.forget(trained.ids[:2])
    early = case_of(account, made["id"])
    digest = newest(account, made["id"])
    account.post(f"/v1/certificates/{digest}:revoke", {"reason": "another Anna's pictures"})
    is_problem(account.http.get(f"{REQUESTS}/{made['id']}/case-file"), 409, "case-file-not-ready")
    sweep(account)  # without having been asked again
    case, keys = account.http.get(f"{REQUESTS}/{made['id']}/case-file").content, trusted(account)
    since = account.get(f"/v1/certificates/{digest}/status")["since"]
    told = says(case, keys)
    assert told.endswith(f"Its certificate was REVOKED on {since}: do not rely on it.")
    assert f"the certificate {digest} was REVOKED" in told
    assert "REVOKED" not in says(early, keys)
    [standing] = json.loads(parts(case)["case.json"])["certificates"]
    assert (standing["status"], standing["since"]) == ("revoked", since)
    assert "Anna" not in str(verify.unbase64(json.loads(parts(case)["decision-1.json"])["payload"]))
    assert "/v1/certificates/DIGEST/status" in parts(case)["README.txt"].decode()
    # a date that passes does not make another certificate that nobody revoked
    assert retention.retire_due_pools(account.database) == 0
    with account.database.write() as session:
        for receipt in session.query(Receipt).filter(Receipt.subject == "reference-pool"):
            receipt.done_at = db.now(session)
    sweep(account)
    assert newest(account, made["id"]) == digest


def test_a_revocation_that_the_manifest_hides_is_found(trained: Trained) -> None:
    account = trained.account
    made = trained.forget(trained.ids[:2])
    sweep(account)
    account.post(f"/v1/certificates/{newest(account, made['id'])}:revoke", {"reason": "wrong person"})
    found = parts(case_of(account, made["id"]))
    signing = sealing.open_key(account.database, account.settings)
    statement = opened(found["manifest.json"].decode())
    statement["predicate"]["certificates"][0]["status"] = "valid"
    found["manifest.json"] = json.dumps(sign(statement, signing)).encode()
    words = faults(zipped(found), trusted(account))
    assert words == {"decision-1.json": "it revokes a certificate that the manifest calls valid"}
    statement["predicate"]["certificates"] = []
    found["manifest.json"] = json.dumps(sign(statement, signing)).encode()
    words = faults(zipped(found), trusted(account))
    assert words == {"manifest.json": "the manifest does not say how its certificate stands"}


def test_a_contested_certificate_says_by_whom(trained: Trained) -> None:
    account = trained.account
    made = trained.forget(trained.ids[:2])
    sweep(account)
    again = account.post(REQUESTS, {"dataset": trained.dataset, "complaint_about": made["id"]})
    case, keys = case_of(account, made["id"]), trusted(account)
    assert f"was CONTESTED by {again['id']}, since " in says(case, keys)


def test_each_record_tells_its_own_decision(trained: Trained) -> None:
    """As seen: two partial refusals both read as the second, and an extension showed a date that a pause had moved."""
    account = trained.account
    made = trained.delete(trained.ids[:6], jurisdiction="gdpr")
    where = f"{REQUESTS}/{made['id']}"
    extended = account.post(f"{where}:extend", {"reason": "many letters"})["due_at"]
    account.post(f"{where}:refuse", {"reason": "a", "ground": "17(3)(e)", "sample_ids": trained.ids[:2]})
    account.post(f"{where}:refuse", {"reason": "b", "ground": "17(3)(b)", "sample_ids": trained.ids[2:3]})
    until = datetime.now(UTC) + timedelta(days=20)
    account.post(f"{where}:identity", {"status": "asked", "until": f"{until:%Y-%m-%d}"})
    moved = account.post(f"{where}:identity", {"status": "refused"})["due_at"]
    with account.database.write() as session:  # as after a pause of days
        session.get_one(DeletionRequest, made["id"]).due_at += timedelta(days=9)
    told = says(case_of(account, made["id"]), trusted(account))
    assert "2 samples of it were refused, 17(3)(e)" in told
    assert "1 sample of it was refused, 17(3)(b)" in told
    assert f"it was extended: due {extended} instead of {made['due_at']}" in told
    assert moved == extended, "asked and answered on one day"
    assert f"at that time the request {made['id']} was held" in told


def test_the_case_says_which_letters_were_sent_which_papers_came_and_who_was_told(trained: Trained) -> None:
    account = trained.account
    account.http.get(f"{trained.where}/versions/1/checkpoint").raise_for_status()
    made = trained.delete(trained.ids[:4])
    where = f"{REQUESTS}/{made['id']}"
    sent = account.post(f"{where}/notices", {"kind": "acknowledgement"})
    account.post(f"{where}/notices/{sent['id']}:sent", {"how": "registered letter"})
    account.post(f"{where}/papers", {"kind": "letter", "name": "Brief.pdf", "content": "aGk="})
    account.post(f"{where}:refuse", {"reason": "a lawsuit", "ground": "17(3)(e)", "sample_ids": trained.ids[:1]})
    account.work()
    account.post(f"{where}/notices", {"kind": "completion"})
    account.post(f"{where}:recall", {})
    found = parts(case_of(account, made["id"], with_papers=True))
    document = json.loads(found["case.json"])
    [refused] = document["refusals"]
    assert (refused["samples"], refused["ground"], refused["reason"]) == (1, "17(3)(e)", "a lawsuit")
    assert refused["letter_sent_at"] is None
    letters = {row["kind"]: row for row in document["notices"]}
    assert (letters["acknowledgement"]["sent_how"], letters["acknowledgement"]["sent_by_name"]) == (
        "registered letter",
        "first key",
    )
    assert letters["completion"]["sent_at"] is None
    assert letters["acknowledgement"]["file"] == f"notices/acknowledgement-{sent['id']}.pdf"
    assert letters["completion"]["file"].startswith("notices/not-sent-completion-")
    assert {row["file"] for row in document["notices"]} == {name for name in found if name.startswith("notices/")}
    [paper] = document["papers"]
    assert (paper["kind"], paper["name"]) == ("letter", "Brief.pdf")
    assert found[paper["file"]] == b"hi"
    [recalled] = document["recalls"]
    assert [each["name"] for each in recalled["recipients"]] == ["first key"]
    assert [each["by"][0]["form"] for each in document["fetched"]] == ["checkpoint"]
    [bare] = json.loads(parts(case_of(account, made["id"]))["case.json"])["papers"]
    assert bare["file"] is None
    printed = file._happened(next(each for each in document["history"] if each["kind"] == "request.refused"))
    assert printed == "request.refused · first key · ground: 17(3)(e) · samples: 1 · a lawsuit"
    assert file._sending(letters["completion"]).endswith("NOT MARKED AS SENT")


def test_the_requests_of_one_letter_name_each_other(account: Account) -> None:
    for number, name in enumerate(("clinic", "archive")):
        upload(account, name, PEOPLE, number)
    spread = account.post(
        f"{REQUESTS}:span", {"subjects": ["anna"], "like": {"dataset": "archive", "jurisdiction": "gdpr"}}
    )
    account.work()
    one, two = spread["requests"]
    document = json.loads(parts(case_of(account, one))["case.json"])
    assert [(each["id"], each["status"]) for each in document["same_letter"]] == [(two, "fulfilled")]
    assert document["request"]["case"] == spread["case"]


@pytest.mark.validation
def test_the_service_checks_negative_reports_and_says_what_was_revoked(trained: Trained) -> None:
    """As seen: a negative report was an error of the service."""
    account = trained.account
    made = trained.forget(trained.ids[:2])
    sweep(account)
    account.post(f"/v1/certificates/{newest(account, made['id'])}:revoke", {"reason": "wrong person"})
    case = case_of(account, made["id"])

    def check(content: bytes, kind: str) -> Document:
        reply = account.http.post("/v1/case-files:verify", content=content, headers={"Content-Type": kind})
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    found = check(parts(case)["negative-report.json"], "application/json")
    assert (found["of"], found["verified"], found["uncertified"]) == ("negative report", True, [trained.model])
    assert check(case, "application/zip")["revoked"] is not None


def test_a_letter_of_new_years_day_came_on_that_day(trained: Trained) -> None:
    """As read: in Berlin its clock begins before midnight UTC, and the case file printed the day before."""
    fields = {"received_at": "2026-01-01", "received_reason": "it lay in another office", "channel": "letter"}
    made = trained.delete(trained.ids[:2], jurisdiction="gdpr:DE", **fields)
    request = json.loads(parts(case_of(trained.account, made["id"]))["case.json"])["request"]
    assert made["received_at"].startswith("2025-12-31T23:00")
    assert (request["received_on"], request["channel"]) == ("2026-01-01", "letter")
