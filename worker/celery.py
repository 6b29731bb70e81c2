"""Celery's side: a message is a job id and nothing else, and the task is `run_one`.

Messages are acknowledged early and one at a time, without a result backend, because the database redelivers and not
the broker. The pool child is spawned, never forked: CUDA is first used in the process that needs it, and a child that
is killed takes no other process with it.
"""

from __future__ import annotations

from functools import lru_cache
from multiprocessing import process
from typing import Any

from billiard.exceptions import WorkerLostError
from celery import Celery
from celery.signals import setup_logging, task_failure, worker_ready, worker_shutdown
from celery.worker import state

from app import jobs
from app.core import logs
from app.core.config import get_settings
from app.core.db import Database
from app.formats import sandbox
from app.jobs import workers

app = Celery("lethe", broker=get_settings().broker_url or None, set_as_current=False)
app.conf.update(
    task_ignore_result=True,
    task_acks_late=False,
    task_serializer="json",
    accept_content=["json"],
    worker_prefetch_multiplier=1,
    worker_concurrency=1,
    worker_pool_start_method="spawn",
    worker_hijack_root_logger=False,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
    broker_channel_error_retry=True,  # a broker that takes no writes may take them again
    worker_cancel_long_running_tasks_on_connection_loss=False,
)


def leave() -> None:
    """Have the worker of this process end, from another thread."""
    state.should_terminate = 0


@lru_cache
def _resources() -> Any:
    from worker.runtime.run import Resources  # torch only in the pool child

    _may_have_children()
    sandbox.keep_in(get_settings().looking_dir)
    return Resources.open(get_settings())


def _may_have_children() -> None:
    """Uploads are decoded in a child of this process. The pool puts a process of its own kind in the place of the one
    that `multiprocessing` knows, with a key that is no key there, and forbids it children, since they could outlive it:
    ours never do.
    """
    module: Any = process
    known = module.current_process()
    known._config |= {"daemon": False, "authkey": module.AuthenticationString(known.authkey)}


@app.task(name="lethe.run")  # type: ignore[untyped-decorator]
def run(job_id: str) -> None:
    from worker.run_one import run_one

    run_one(_resources(), workers.own_name(get_settings()), hint=job_id)


@setup_logging.connect  # type: ignore[untyped-decorator]
def _log(**_: Any) -> None:
    """Of this process and of the pool child, which starts afresh: our lines instead of Celery's."""
    logs.configure("worker", get_settings().log_format)


@task_failure.connect  # type: ignore[untyped-decorator]
def _child_lost(exception: BaseException | None = None, **_: Any) -> None:
    """The pool child was killed (out of memory, a CUDA abort): hand its lease back without waiting for its end."""
    if isinstance(exception, WorkerLostError):
        settings = get_settings()
        jobs.release(Database(settings), workers.own_name(settings), "its process was killed")


@worker_ready.connect  # type: ignore[untyped-decorator]
def _ready(**_: Any) -> None:
    workers.start(get_settings())


@worker_shutdown.connect  # type: ignore[untyped-decorator]
def _shutdown(**_: Any) -> None:
    workers.stop()
