"""What endpoints are given: settings, blobs, a transaction each, the caller, idempotency, a pager.

Transactions end before the reply leaves (scope `function`): a 202 that the client sees is committed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Annotated, Any

from fastapi import Depends, Header, Query, Request, Security
from fastapi.concurrency import contextmanager_in_threadpool
from fastapi.dependencies.models import Dependant
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.api.http.group_commit import Grouped
from app.api.http.intake import Intake, Posted
from app.api.http.known_keys import KnownKeys
from app.api.http.paging import Pager
from app.api.http.patterns import IDEMPOTENCY_KEY
from app.api.http.replies import Reply, fingerprints, replayed, require_same_body
from app.api.http.rooms import MOST_OF_STRANGERS, AddressRates, Rates, Room
from app.api.http.status_polls import Poll, Polls
from app.blobs.open import open_blobs
from app.core import db, keys, logs
from app.core.config import Settings
from app.core.db import Database
from app.core.errors import TooManyRequests, Unauthorized, Unprocessable
from app.core.keys import Caller
from app.core.tables import Idempotency as IdempotencyRow
from app.core.tables import Job
from app.jobs import broker
from app.operations import metrics, probes
from app.operations.probes import Probe
from app.rules.states import JobKind, JobState

INTAKE_THREADS = 8  # datasets whose deletions are taken in at a time
WRITERS = 20  # at most half of the threads: the one that holds a lock needs another thread to go on
HEAVIEST_GROUP = 8 * 2**20  # bytes of bodies
WITHOUT_A_KEY: dict[str, Any] = {"security": [{}]}  # of a route's `openapi_extra`: a key may be left out, too


class Parts:
    """What the application keeps as long as it runs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.since = time.monotonic()
        self.database = Database(settings)
        self.blobs = open_blobs(settings)
        self.broker = Probe(lambda: broker.fault(settings.broker_url) if settings.broker_url else None)
        self.storage = Probe(lambda: probes.storage_fault(self.blobs))
        self.metrics = metrics.registry(self.database, settings)
        self.intake: Grouped[Posted, Reply] = Grouped(
            "intake",
            Intake(self.database, settings),
            threads=1 if self.database.is_sqlite else INTAKE_THREADS,  # SQLite has one writer anyway
            weigh=lambda posted: len(posted.body),
            heaviest=HEAVIEST_GROUP,
        )
        self.polls: Grouped[Poll, Reply] = Grouped("polls", Polls(self.database))
        self.writers = asyncio.Semaphore(WRITERS)
        self.known = KnownKeys(self.database)
        self.rates = Rates(settings.key_calls_per_second, settings.tenant_calls_per_second)
        self.addresses = AddressRates(rate=1, most=30)
        self.bodies = Room("bytes of bodies", settings.max_held_bytes, least=settings.max_json_bytes)
        self.strangers = Room("bytes of forms without a session", settings.max_held_bytes // 8, least=MOST_OF_STRANGERS)
        self.transfers = Room("uploads and downloads", settings.max_transfers)
        self.streams = Room("event streams", settings.max_event_streams)

    def close(self) -> None:
        self.intake.close()
        self.polls.close()
        self.known.close()
        self.database.close()


# Dependencies that wait for nothing are async: a sync one costs a hop to a thread.


async def parts(request: Request) -> Parts:
    held: Parts = request.app.state.parts
    return held


PartsDep = Annotated[Parts, Depends(parts)]
bearer = HTTPBearer(auto_error=False, description="an API key: `lethe_…`")


Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
BY_METHOD_SCOPE = "read or operate"  # which of them, `contract` says for each operation


def said(scope: str) -> Any:
    """The key as sent; the OpenAPI document says that it needs `scope`, which is held elsewhere."""
    return Security(bearer, scopes=[scope])


ToRead = Annotated[HTTPAuthorizationCredentials | None, said("read")]
ToRequest = Annotated[HTTPAuthorizationCredentials | None, said("request")]


def token_of(credentials: HTTPAuthorizationCredentials | None) -> str:
    """What was sent as a key; Unauthorized where nothing was."""
    if credentials is None:
        raise Unauthorized("Send an API key: `Authorization: Bearer lethe_…`.")
    return credentials.credentials


def caller(held: PartsDep, credentials: Credentials) -> Caller:
    with held.database.read() as session:
        who = keys.authenticate(session, token_of(credentials))
    logs.note(tenant=who.tenant_id)
    return who


CallerDep = Annotated[Caller, Depends(caller)]


def caller_or_stranger(
    request: Request, held: PartsDep, credentials: Credentials, _: Any = said("audit")
) -> Caller | None:
    """Who calls, with the scope `audit`; None for one who sends no key at all, and is counted by the address."""
    if "authorization" not in request.headers:
        held.addresses.take(request.client.host if request.client else "")
        return None
    who = caller(held, credentials)
    keys.require(who, "audit")
    return who


async def _one_transfer(held: PartsDep, who: CallerDep) -> AsyncIterator[None]:
    with held.transfers.taken(who):
        yield


async def _one_stream(held: PartsDep, who: CallerDep) -> AsyncIterator[None]:
    with held.streams.taken(who):
        yield


def require_another_job(session: Session, settings: Settings, tenant_id: str) -> None:
    """Refuse one job more where the tenant has the most that it may have in the queue."""
    most = settings.tenant_queued_jobs
    queued = select(Job.id).where(Job.tenant_id == tenant_id, Job.state == JobState.QUEUED)
    if len(session.scalars(queued.where(Job.kind.in_(QUEUED_ON_REQUEST)).limit(most)).all()) < most:
        return
    many = f"This tenant has {most} jobs in the queue. Wait until some have run, or cancel some."
    raise TooManyRequests(many, kind="too-many-jobs", headers={"Retry-After": "60"})


def _another_job(held: PartsDep, who: CallerDep) -> None:
    with held.database.read() as session:
        require_another_job(session, held.settings, who.tenant_id)


QUEUED_ON_REQUEST = (JobKind.INGEST, JobKind.TRAIN, JobKind.REFERENCES, JobKind.PRECOMPUTE, JobKind.AUDIT)
ANOTHER_JOB = Depends(_another_job)  # of calls that queue a job which no deletion waits for
ONE_TRANSFER = Depends(_one_transfer)  # counts the call as an upload or a download until its reply has been sent
ONE_STREAM = Depends(_one_stream)


async def known_query(request: Request) -> None:
    """Refuse a query parameter that the call does not have: a filter with a slip in its name would filter nothing."""
    if not request.query_params:
        return
    known = _query_names(request.scope["route"].dependant)
    if not request.query_params.keys() <= known:
        takes = ", ".join(sorted(known)) or "none"
        fault = {"in": "query", "pointer": "", "code": "extra_forbidden", "detail": f"this call's parameters: {takes}"}
        raise Unprocessable("The request does not fit its schema.", kind="schema", errors=[fault])


def _query_names(dependant: Dependant) -> set[str]:
    own = {field.alias for field in dependant.query_params}
    return own.union(*(_query_names(each) for each in dependant.dependencies))


def needs(scope: str) -> Any:
    """A dependency that refuses keys without `scope`."""

    async def check(who: CallerDep, _: Any = said(scope)) -> None:
        keys.require(who, scope)

    return Depends(check)


async def _reads_or_operates(request: Request, who: CallerDep, _: Any = said(BY_METHOD_SCOPE)) -> None:
    keys.require(who, "read" if request.method in ("GET", "HEAD") else "operate")


BY_METHOD = Depends(_reads_or_operates)  # of a router: `read` to look, `operate` to change


def _read(held: PartsDep, _: CallerDep) -> Iterator[Session]:
    with held.database.read() as session:
        yield session


async def _write(held: PartsDep, who: CallerDep) -> AsyncIterator[Session]:
    async with held.writers, contextmanager_in_threadpool(held.database.write(who.key_id)) as session:
        yield session


Read = Annotated[Session, Depends(_read, scope="function")]
Write = Annotated[Session, Depends(_write, scope="function")]


# -- idempotency -----------------------------------------------------------------------------------


class Replay(Exception):
    """The same request came before: its stored reply is the reply."""

    def __init__(self, response: Response) -> None:
        self.response = response


class Idempotent:
    """Writes the reply of a POST beside what it did, under the client's key, in the same transaction."""

    def __init__(self, session: Session, row: IdempotencyRow | None) -> None:
        self._session, self._row = session, row

    def reply(
        self,
        status: int,
        body: BaseModel,
        headers: Mapping[str, str] | None = None,
        store: BaseModel | None = None,
    ) -> JSONResponse:
        """The reply; `store`: what a replay answers instead, where the first reply shows a secret once."""
        text = body.model_dump_json()
        if self._row is not None:
            self._row.status, self._row.headers = status, dict(headers or {})
            self._row.body = store.model_dump_json() if store else text
        return _json(status, text, headers or {})


def _json(status: int, text: str, headers: Mapping[str, str]) -> JSONResponse:
    response = JSONResponse(None, status_code=status, headers=dict(headers))
    response.body = text.encode()
    response.headers["content-length"] = str(len(response.body))
    return response


async def _body(request: Request) -> bytes:
    return await request.body()


IfNoneMatch = Annotated[str | None, Header(include_in_schema=False)]  # said of every GET by `conditional.describe`

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=IDEMPOTENCY_KEY,
        description="the same key with the same body replays the stored reply; with another body it is refused",
    ),
]


def idempotent(
    request: Request,
    held: PartsDep,
    who: CallerDep,
    session: Write,
    body: Annotated[bytes, Depends(_body)],
    key: IdempotencyKey = None,
) -> Idempotent:
    return open_idempotent(held, who, session, request.url.path, key, body)


def open_idempotent(held: Parts, who: Caller, session: Session, route: str, key: str | None, body: bytes) -> Idempotent:
    """Take `key` for this body, in the transaction that does what the body asks for.

    Raises:
        Replay: it was done before; the reply that was stored.
        Unprocessable: the key was used with another body.
    """
    if key is None:
        return Idempotent(session, None)
    marks = fingerprints(held.settings, body)
    where = {"tenant_id": who.tenant_id, "route": route, "key": key}
    fresh = upsert(IdempotencyRow).values(**where, fingerprint=marks[0], created_at=db.now(session))
    session.execute(fresh.on_conflict_do_nothing())  # waits for a twin in flight, then sees its row
    row = session.get_one(IdempotencyRow, tuple(where.values()))
    require_same_body(row, marks)
    if row.status is not None:
        raise Replay(replayed(row).response())
    return Idempotent(session, row)


IdempotentDep = Annotated[Idempotent, Depends(idempotent, scope="function")]


# -- paging ----------------------------------------------------------------------------------------

PageSize = Annotated[int, Query(ge=1, le=1000, description="items of one page")]
PageToken = Annotated[str | None, Query(max_length=400, description="`next_page_token` of the page before")]


async def pager(
    request: Request, held: PartsDep, who: CallerDep, page_size: PageSize = 50, page_token: PageToken = None
) -> Pager:
    filters = sorted((k, v) for k, v in request.query_params.items() if k not in ("page_size", "page_token"))
    return Pager(held.settings, page_size, page_token, [who.tenant_id, request.url.path, filters])


PagerDep = Annotated[Pager, Depends(pager)]


def accepted(location: str) -> dict[str, str]:
    """Headers of a 202: where to look, and when."""
    return {"Location": location, "Retry-After": "1"}


ANY = (401, 408, 413, 422, 429, 503)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI `responses` for problem documents; every operation may answer these besides."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {code: {"description": "a problem document", "content": content} for code in (*ANY, *statuses)}
