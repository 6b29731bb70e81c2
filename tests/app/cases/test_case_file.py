"""The case file: what is in it, and that every copy that was tampered with is refused in the right words."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from app.evidence.certificate import opened
from lethe import verify
from tests.app.cases.sealed import REQUESTS, case_of, faults, parts, sweep, trusted, zipped
from tests.helpers import as_other, is_problem
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
    assert any(name.startswith("notices/completion-") for name in found)
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
    assert any("was refused, 17(3)(e)" in line for line in report.says)
    assert [line for line in report.says if "was extended" in line]
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
