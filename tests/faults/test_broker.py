"""A worker whose broker takes no hints goes on with what the database has, and comes back to the broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import REDIS
from tests.redis_server import READ_ONLY, WRITES, redis_server
from tests.support import Account, environment, eventually, start, stop

pytestmark = [pytest.mark.services, pytest.mark.slow]


@pytest.mark.parametrize("database_url", [""], indirect=False)
def test_a_worker_watches_the_database_while_its_broker_takes_no_hints(account: Account, tmp_path: Path) -> None:
    """As seen: after a failover to a replica `lethe worker` exited, and the jobs waited."""
    log = tmp_path / "worker.log"

    def runs_a_job() -> None:
        made = account.post("/v1/datasets", {"name": "digits", "source": {"name": "digits"}})
        eventually(lambda: account.get(f"/v1/jobs/{made['job']}")["state"] == "succeeded", "the job")

    with redis_server(REDIS) as broker:
        broker.refuse(READ_ONLY, *WRITES)
        process = start("worker", log=log, env=environment(account.settings.data_dir, broker_url=broker.url))
        try:
            runs_a_job()
            assert "read-only replica" in log.read_text()
            broker.refuse()
            eventually(lambda: broker.seen(b"BRPOP"), "the worker to ask the broker")
            broker.refuse(READ_ONLY, *WRITES)
            runs_a_job()
            eventually(lambda: log.read_text().count("read-only replica") == 2, "it to say so again")
            assert process.poll() is None
        finally:
            stop(process)
