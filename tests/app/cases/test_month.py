"""An officer's month: twelve requests by letter with dates in the past, two laws, one extension, one refusal, one
identity that never came, one complaint, one recall. Every due date is held against a calendar of its own, every case
file against the verifier on an environment that has only the client package, and every tampered copy is refused.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from app.core.tables import Model
from app.deletions import batches, compliance
from app.evidence.certificate import opened
from app.rules.deadlines import Pause, clock
from tests.app.cases.sealed import REQUESTS, case_of, faults, parts, trusted, zipped
from tests.app.rules.test_deadlines import closing, is_off, walk_months
from tests.trained import Trained

TODAY = datetime.now(UTC).date()
WHY = "it came by post and lay in the in-tray"


@dataclass(frozen=True)
class Letter:
    """One letter: its law, the days since it came, and what becomes of it."""

    law: str
    ago: int
    fate: str = "granted"


LETTERS = [
    Letter("gdpr", 2),
    Letter("gdpr:DE", 9),
    Letter("gdpr:FR", 20),
    Letter("gdpr:DE-BY", 5, "extended"),
    Letter("gdpr", 11, "refused"),
    Letter("gdpr:DE", 12, "no-identity"),  # the wait runs out
    Letter("gdpr", 16, "identity"),
    Letter("ccpa", 3),
    Letter("ccpa", 21),
    Letter("ccpa", 40, "refused"),
    Letter("gdpr", 45),  # found in a drawer, late from the start
    Letter("gdpr", 1, "complaint"),
]
ASKED, SHOWN, UNTIL = 7, 4, 14  # days: asked and shown before today, waited for after it
OVER = 1  # of the one whose wait runs out: days before today


def expected_due(letter: Letter) -> datetime:
    """By a walk over single days, with feasts and summer time of its own (`tests.app.rules.test_deadlines`)."""
    came = TODAY - timedelta(days=letter.ago)
    if letter.law == "ccpa":
        return closing("ccpa", came + timedelta(days=45))
    months = 3 if letter.fate == "extended" else 1
    paused = {"identity": ASKED - SHOWN, "no-identity": ASKED - OVER}.get(letter.fate, 0)
    last = month_without_rolling(letter.law, came, months)
    for _ in range(paused):
        last += timedelta(days=1)
    while is_off(letter.law, last):
        last += timedelta(days=1)
    return closing(letter.law, last)


def month_without_rolling(law: str, came: date, count: int) -> date:
    """The last day before any roll-over: the walk, on a calendar without week-ends."""
    day, number = came, came.day
    while count:
        day += timedelta(days=1)
        count -= day.day == number or (day.day < number and (day + timedelta(days=1)).day == 1)
    assert day <= walk_months(law, came, 1) or count == 0
    return day


def test_an_officers_month(trained: Trained, tmp_path: Path) -> None:
    account, ids = trained.account, iter(trained.ids)
    account.http.get(f"{trained.where}/versions/1/checkpoint").raise_for_status()
    together = {"mode": "batch", "max_requests": 100}  # one job for all: the law is tested here, not the engine
    policy = account.get(trained.where)["policy"] | {"when": together}
    account.http.put(f"{trained.where}/policy", json=policy).raise_for_status()
    made: list[dict[str, Any]] = []
    for number, letter in enumerate(LETTERS):
        came = TODAY - timedelta(days=letter.ago)
        body: dict[str, Any] = {
            "dataset": trained.dataset,
            "sample_ids": [next(ids), next(ids)],
            "jurisdiction": letter.law,
            "ground": "1798.105" if letter.law == "ccpa" else "17(1)(b)",
            "received_at": came.isoformat(),
            "received_reason": WHY,
            "reference": f"letter {number}",
        }
        if letter.fate == "complaint":
            refused = next(each for each, of in zip(made, LETTERS, strict=False) if of.fate == "refused")
            body |= {"complaint_about": refused["id"], "sample_ids": None}
        made.append(account.post(REQUESTS, {name: value for name, value in body.items() if value is not None}))
        where = f"{REQUESTS}/{made[-1]['id']}"
        if letter.fate == "extended":
            account.post(f"{where}:extend", {"reason": "three hundred letters in one week"})
        elif letter.fate == "refused":
            ground = "1798.105(d)(1)" if letter.law == "ccpa" else "17(3)(e)"
            account.post(f"{where}:refuse", {"reason": "a lawsuit needs them", "ground": ground})
        elif letter.fate in ("identity", "no-identity"):
            until = day(UNTIL if letter.fate == "identity" else -OVER)
            asked = {"status": "asked", "at": day(-ASKED), "until": until, "note": "wrote to the address"}
            account.post(f"{where}:identity", asked)
            if letter.fate == "identity":
                account.post(f"{where}:identity", {"status": "confirmed", "at": day(-SHOWN)})
            else:
                assert [compliance.notice_waits(account.database) for _ in range(2)] == [1, 0]
                account.post(f"{where}:identity", {"status": "refused", "at": day(0)})
                account.post(f"{where}:refuse", {"reason": "no proof came", "ground": "12(2)"})
    with account.database.write() as session:
        batches.close_now(session, session.get_one(Model, trained.model))
    account.work()

    # every due date, held against the other computation
    shown = [account.get(f"{REQUESTS}/{each['id']}") for each in made]
    for letter, each in zip(LETTERS, shown, strict=True):
        assert datetime.fromisoformat(each["due_at"]).replace(tzinfo=None) == expected_due(letter), letter
    outcomes = {letter.fate: each["status"] for letter, each in zip(LETTERS, shown, strict=True) if letter.ago != 45}
    assert outcomes == {
        "granted": "fulfilled",
        "extended": "fulfilled",
        "identity": "fulfilled",
        "complaint": "fulfilled",
        "refused": "refused",
        "no-identity": "refused",
    }
    late = next(each for letter, each in zip(LETTERS, shown, strict=True) if letter.ago == 45)
    assert late["due_at"] < late["fulfilled_at"]
    assert all(each["verdict"] == "inconclusive" for each in shown if each["fulfilled_at"])

    # one recall, then what the register and the figures say
    recalled = account.post(f"{REQUESTS}/{shown[0]['id']}:recall", {})
    assert [each["number"] for each in recalled["versions"]] == [1]
    figures = account.get("/v1/compliance/figures")
    assert figures["by_law"] == {"ccpa": 3, "gdpr": 9}
    assert figures["by_outcome"] == {"granted": 9, "refused": 3}
    assert figures["by_refusal_ground"] == {"12(2)": 1, "17(3)(e)": 1, "1798.105(d)(1)": 1}
    assert figures["days"]["late"] == 1
    register = account.get("/v1/compliance/register")
    assert {each["reference"] for each in register} == {f"letter {number}" for number in range(12)}
    assert compliance.notice_overdue(account.database) == 0

    # all twelve case files, where nothing but the client package is
    keys = trusted(account)
    cases = [case_of(account, each["id"]) for each in made]
    folder = regulator(tmp_path, account.http.get("/v1/log/keys").content)
    for number, case in enumerate(cases):
        (folder / f"case-{number}.zip").write_bytes(case)
    said = verified_alone(folder, range(12))
    assert said.count("The case file is verified.") == 12
    assert said.count("2 samples of it were refused, 17(3)(e)") == 1
    assert said.count("LATE") == 1

    for letter, case in zip(LETTERS, cases, strict=True):
        if "certificate.json" in parts(case):
            assert due_by(opened(parts(case)["certificate.json"].decode())["predicate"]["request"]) == expected_due(
                letter
            )

    for number, case in enumerate(cases):
        found = parts(case)
        other = parts(cases[(number + 1) % 12])
        left_out = {name: part for name, part in found.items() if name != "case.json"}
        assert faults(zipped(left_out), keys) == {"case.json": "is left out of the file"}
        foreign = found | {"case.json": other["case.json"]}
        assert "another case" in faults(zipped(foreign), keys)["case.json"]
        renamed = left_out | {"file.json": found["case.json"]}
        assert "renamed" in faults(zipped(renamed), keys)["case.json"]


def due_by(request: dict[str, Any]) -> datetime:
    """The due date that follows from what a certificate says of the law."""

    def moment(text: str) -> datetime:
        return datetime.fromisoformat(text).replace(tzinfo=None)

    law, identity, pause = clock(request["jurisdiction"]), request["identity"], None
    if identity["asked_at"]:
        ended = min(identity["ended_at"] or identity["until"], identity["until"])
        pause = Pause(moment(identity["asked_at"]), moment(ended))
    period = law.extended if request["extended_at"] else law.due
    found = period(moment(request["received_at"]), pause)
    assert moment(request["due_at"]) == found
    return found


def day(shift: int) -> str:
    return (TODAY + timedelta(days=shift)).isoformat()


def regulator(folder: Path, keys: bytes) -> Path:
    """A folder with the client package and the keys that came over another way."""
    place = folder / "regulator"
    place.mkdir()
    root = Path(__file__).parents[3]
    with zipfile.ZipFile(place / "package.zip", "w") as archive:
        for path in sorted((root / "lethe").rglob("*.py")):
            archive.write(path, path.relative_to(root))
    (place / "trust.json").write_bytes(keys)
    return place


def verified_alone(folder: Path, numbers: range) -> str:
    """What `lethe.verify` prints in an interpreter that sees none of the service's folders."""
    code = (
        "import sys; sys.path.insert(0, 'package.zip')\n"
        "from lethe import verify\n"
        f"codes = [verify.main([f'case-{{n}}.zip', '--trust', 'trust.json']) for n in {list(numbers)}]\n"
        "assert not any(name.split('.')[0] in ('app', 'sqlalchemy', 'torch') for name in sys.modules)\n"
        "sys.exit(any(codes))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    return done.stdout
