"""The API is killed while it accepts: what was committed is found again by its key, what was not is not there."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from app.core.tables import DeletionRequest, Idempotency, Sample
from tests.faults.harness import Case
from tests.support import Process, environment, eventually, free_port, start, stop

CLIENTS = 4


@contextmanager
def api(case: Case, crash_at: str = "") -> Iterator[tuple[httpx.Client, Process]]:
    """The API as a process on this copy, and a client with its key."""
    folder, port = case.settings.data_dir, free_port()
    values = {"port": str(port), "database_url": case.settings.database_url, "crash_at": crash_at}
    process = start("api", log=case.log, env=environment(folder, **values))
    key = case.settings.key_file.read_text().strip()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {key}"}) as client:
            eventually(lambda: _answers(client) or process.poll() is not None, "the API to answer")
            yield client, process
    finally:
        stop(process)


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


def post(client: httpx.Client, case: Case, number: int) -> httpx.Response | None:
    """One of several different requests, each under its own key; None where the connection broke."""
    ids = [name for name in case_ids(case) if name not in case.origin.ids][3 * number : 3 * number + 3]
    body = {"dataset": case.origin.dataset, "sample_ids": ids}
    try:
        return client.post("/v1/deletion-requests", json=body, headers={"Idempotency-Key": f"key-{number}"}, timeout=60)
    except httpx.TransportError:
        return None


def case_ids(case: Case) -> list[str]:
    return [row.sample_id for row in case.rows(Sample) if not row.holdout]


@pytest.mark.parametrize(("point", "kept"), [("accept.uncommitted", False), ("accept.committed", True)])
@pytest.mark.slow
def test_a_kill_while_a_group_is_accepted_loses_and_doubles_nothing(case: Case, point: str, kept: bool) -> None:
    before = len(case.rows(DeletionRequest))
    with api(case, point) as (client, process):
        with ThreadPoolExecutor(CLIENTS) as pool:
            broken = list(pool.map(lambda number: post(client, case, number), range(CLIENTS)))
        assert process.wait(60) == -signal.SIGKILL
        assert broken == [None] * CLIENTS, "nobody was told anything"
    stored = {row.key for row in case.rows(Idempotency)}
    assert len(case.rows(DeletionRequest)) == before + len(stored)
    assert bool(stored) == kept

    with api(case) as (client, _):
        replies = [post(client, case, number) for number in range(CLIENTS)]
    assert [reply and reply.status_code for reply in replies] == [202] * CLIENTS
    replayed = {f"key-{n}" for n, reply in enumerate(replies) if reply and "idempotent-replayed" in reply.headers}
    assert replayed == stored
    assert len(case.rows(DeletionRequest)) == before + CLIENTS
