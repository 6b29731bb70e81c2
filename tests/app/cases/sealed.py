"""The sweeper's part in tests: the log, certificates and case files, as they are within seconds of a change."""

from __future__ import annotations

import io
import json
import zipfile

from app.cases import file
from app.evidence import negative, sealing
from lethe import verify
from tests.support import Account

REQUESTS = "/v1/deletion-requests"


def sweep(account: Account) -> None:
    """What the sweeper does every second."""
    key = sealing.open_key(account.database, account.settings)
    sealing.seal_due(account.database, key, "test-log")
    negative.seal_due(account.database, key, "test-log")
    sealing.sequence_waiting(account.database, key, "test-log")
    file.make_due(account.database, key)


def case_of(account: Account, request: str, **asked: bool) -> bytes:
    account.post(f"{REQUESTS}/{request}:case-file", dict(asked))
    sweep(account)
    found = account.http.get(f"{REQUESTS}/{request}/case-file")
    assert found.status_code == 200, found.text
    assert found.headers["content-type"] == "application/zip"
    return bytes(found.content)


def trusted(account: Account) -> list[verify.TrustedKey]:
    return verify.read_trust(account.http.get("/v1/log/keys").content)


def parts(case: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(case)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(entries: dict[str, bytes] | list[tuple[str, bytes]]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in entries.items() if isinstance(entries, dict) else entries:
            archive.writestr(name, content)
    return made.getvalue()


def faults(case: bytes, keys: list[verify.TrustedKey]) -> dict[str, str]:
    """What the verifier refuses, by part."""
    report = verify.verify_case(case, keys)
    assert report.verified == (not [each for each in report.checks if each.verified is False])
    return {each.name: each.detail for each in report.checks if each.verified is False}


def log_of(account: Account) -> list[dict[str, object]]:
    return list(json.loads(account.http.get("/v1/log/entries", params={"limit": 1000}).text)["entries"])
