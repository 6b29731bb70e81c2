"""Worker processes that can be killed anywhere, on copies of one prepared service: what the fault tests share."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from fastapi.testclient import TestClient
from sqlalchemy import select, update

from app import jobs
from app.blobs import usage
from app.blobs.folder import Folder
from app.blobs.usage import UNRECORDED
from app.core import db
from app.core.config import Settings
from app.core.db import Database
from app.core.tables import Base, DeletionRequest, Job, JobArtifact, OutcomeRow, Receipt, Version
from app.main import create_app
from app.rules.states import TERMINAL_JOBS
from tests.conftest import POSTGRES
from tests.support import Account, Process, environment, eventually, scratch_database, start
from tests.trained import Template


@contextmanager
def ended(process: Process) -> Iterator[Process]:
    """The process, certainly gone afterwards."""
    try:
        yield process
    finally:
        process.kill()
        process.wait()


# -- a prepared service ----------------------------------------------------------------------------


class Prepared(NamedTuple):
    """A data folder with digits, a trained model, four references, one queued deletion; its database, if apart."""

    folder: str
    database_url: str
    dataset: str
    model: str
    request: str
    job: str
    ids: list[str]


@contextmanager
def account_of(settings: Settings) -> Iterator[Account]:
    """The API of a service, called in this process with its first key, and a worker that is called job by job."""
    database = Database(settings)
    with TestClient(create_app(settings), raise_server_exceptions=False) as http:
        http.headers["Authorization"] = f"Bearer {settings.key_file.read_text().strip()}"
        account = Account(settings, database, http)
        try:
            yield account
        finally:
            account.close()
            database.close()


def prepare(source: Template, folder: Path, database_url: str) -> Prepared:
    """Copy a trained account, and ask for a deletion. `database_url` is a copy of its database, if that is apart."""
    shutil.copytree(source.folder, folder)
    with account_of(Settings(data_dir=folder, database_url=database_url)) as account:
        ids = source.ids[::40]
        request = account.delete(source.dataset, ids)
        usage.remove_leftovers(account.database, account.resources.blobs)
    job = request["outcomes"][0]["job"]
    return Prepared(str(folder), database_url, source.dataset, source.model, request["id"], job, ids)


@contextmanager
def case_of(prepared: Prepared, folder: Path, **settings: Any) -> Iterator[Case]:
    """A copy of the prepared service of one's own."""
    shutil.copytree(prepared.folder, folder)
    with ExitStack() as stack:
        url = ""
        if prepared.database_url:
            name = prepared.database_url.rpartition("/")[2]
            url = stack.enter_context(scratch_database(POSTGRES, name))
        found = Settings(data_dir=folder, database_url=url, **{"resume_seconds": 0, **settings})
        case = Case(prepared, found, Database(found))
        stack.callback(case.close)
        yield case


@dataclass
class Case:
    """One copy: workers as processes or in this one, and what the database says of it."""

    origin: Prepared
    settings: Settings
    database: Database
    _resources: Any = field(default=None, repr=False)

    @property
    def log(self) -> Path:
        return self.settings.data_dir.parent / "worker.log"

    def close(self) -> None:
        self.database.close()
        if self._resources is not None:
            self._resources.close()

    def worker(self, **settings: Any) -> Process:
        """A worker process on this copy."""
        scratch = self.settings.data_dir.parent / "tmp"
        scratch.mkdir(exist_ok=True)
        values = self.settings.model_dump(include={"database_url", "lease_seconds", "resume_seconds"})
        given = {name: str(value) for name, value in (values | settings).items()}
        env = environment(self.settings.data_dir, **given) | {"TMPDIR": str(scratch)}
        return start("worker", log=self.log, env=env)

    def killed_at(self, point: str) -> None:
        """Run a worker until it has killed itself at `point`."""
        with ended(self.worker(crash_at=point, worker_name="first")) as process:
            assert process.wait(60) == -signal.SIGKILL, self.log.read_text()[-4000:]

    def expire(self) -> None:
        """Let every lease run out, and the sweeper see it."""
        with self.database.write() as session:
            past = db.now(session) - timedelta(seconds=1)
            session.execute(update(Job).where(Job.state == "running").values(lease_until=past))
        jobs.sweep(self.database, 30.0)
        assert not any(job.state == "running" for job in self.rows(Job))

    def run_one(self, owner: str = "second") -> bool:
        """One job, worked on in this process."""
        from worker.run_one import run_one
        from worker.runtime.run import Resources

        self._resources = self._resources or Resources.open(self.settings)
        return run_one(self._resources, owner)

    def drain(self) -> None:
        while self.run_one():
            pass

    def rows(self, table: type[Base]) -> list[Any]:
        with self.database.read() as session:
            return list(session.scalars(select(table).order_by(*table.__table__.primary_key.columns)))

    def job(self, job_id: str = "") -> Job:
        return next(job for job in self.rows(Job) if job.id == (job_id or self.origin.job))

    def unlearning(self) -> list[Job]:
        """The unlearn jobs, oldest first."""
        return [job for job in self.rows(Job) if job.kind == "unlearn"]

    def purge(self) -> Job:
        return next(job for job in self.rows(Job) if job.kind == "purge")

    def artifacts(self) -> dict[str, tuple[str, Any]]:
        """Of stages that have ended, and not what an attempt was storing."""
        mine = [row for row in self.rows(JobArtifact) if row.job_id == self.origin.job]
        return {row.name: (row.digest, row.created_at) for row in mine if not row.name.startswith(UNRECORDED)}

    def outcome(self) -> OutcomeRow:
        return self.rows(OutcomeRow)[0]

    def all_ended(self) -> bool:
        return all(job.state in TERMINAL_JOBS for job in self.rows(Job))

    def account(self) -> dict[str, Any]:
        """What must come out the same whatever died on the way."""
        versions = [(v.number, v.parent, v.origin, v.state, v.digest) for v in self.rows(Version)]
        # The database's files are rewritten a moment later.
        receipts = sorted((r.subject, r.digest, bool(r.done_at) or r.subject == "database") for r in self.rows(Receipt))
        request, outcome = self.rows(DeletionRequest)[0], self.outcome()
        ends = (request.decision, bool(request.fulfilled_at), outcome.state, outcome.version)
        return {"versions": versions, "receipts": receipts, "request": ends}

    def strays(self) -> list[str]:
        """Files that no row accounts for: in the blob folder, among its parts, in the workers' temporary folder."""
        blobs = Folder(self.settings.data_dir / "blobs")
        usage.remove_leftovers(self.database, blobs)
        with self.database.read() as session:
            kept = [d for d in blobs.older_than(-60) if not usage.in_use(session, d)]
        folders = [self.settings.data_dir / "blobs" / "incoming", self.settings.data_dir.parent / "tmp"]
        return kept + [str(path) for folder in folders for path in folder.rglob("*") if path.is_file()]


# -- long jobs -------------------------------------------------------------------------------------


def train_long(client: Any, origin: Prepared, epochs: int) -> str:
    """Start a training of some seconds on a new model, and return its job once some of it is done."""
    shown = client.get(f"/v1/models/{origin.model}")
    recipe = {"name": "sgd", "params": {"epochs": epochs, "batch_size": 64}}
    body = {key: shown[key] for key in ("architecture", "policy")} | {"recipe": recipe}
    model = client.post("/v1/models", {"name": "long", "dataset": origin.dataset, **body})
    job = str(client.post(f"/v1/models/{model['id']}:train", {"seed": 1})["id"])
    eventually(lambda: client.get(f"/v1/jobs/{job}")["fraction"] > 0, "the training to be under way")
    return job


# -- processes -------------------------------------------------------------------------------------


def children(pid: int) -> dict[int, str]:
    """Processes whose parent is `pid`: id and command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            if parent_of(int(entry.name)) == pid:
                found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ").strip()
    return found


def parent_of(pid: int) -> int:
    """Raises OSError: it has ended."""
    return int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])


def state_of(pid: int) -> str:
    """The letter that the kernel has for it: T is stopped, Z waits to be reaped; empty when there is none."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def alive(pid: int) -> bool:
    return state_of(pid) not in ("", "Z")


def say(text: str) -> None:
    """A line for whoever runs with -s: figures that no test asserts."""
    print(text, file=sys.stderr)
