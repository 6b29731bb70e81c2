"""A trace goes from a call to its jobs, their log lines, their following jobs and their webhooks."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from sqlalchemy import select

from app.core import db, logs, tracing
from app.core.tables import Delivery, Job, Webhook
from app.events import deliveries, webhooks
from tests.receiver import receiver
from tests.trained import Trained

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
GIVEN = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What an operator has who installs OpenTelemetry's SDK."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("lethe"))
    return exporter


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.form = logs.Lines("worker", "json")
        self.found: list[dict[str, object]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(json.loads(self.form.format(record)))


@pytest.fixture
def lines() -> Iterator[Lines]:
    found, ours = Lines(), logging.getLogger("lethe")
    ours.addHandler(found)
    level = ours.level
    ours.setLevel(logging.INFO)
    yield found
    ours.setLevel(level)
    ours.removeHandler(found)


def forget(trained: Trained, ids: list[str], traceparent: str = GIVEN) -> str:
    body = {"dataset": trained.dataset, "sample_ids": ids}
    request: str = trained.account.post("/v1/deletion-requests", body, traceparent=traceparent)["id"]
    return request


def test_without_the_sdk_a_trace_goes_on_to_jobs_log_lines_and_webhooks(
    trained: Trained, lines: Lines, tmp_path: Path
) -> None:
    account = trained.account
    with account.database.write() as session:
        secret = {"secret": webhooks.new_secret(), "events": [], "created_at": db.now(session)}
        session.add(Webhook(id="whk_1", tenant_id="ten_first", url="http://127.0.0.1/ok", **secret))
    request = forget(trained, trained.ids[:3])
    account.work()
    with account.database.read() as session:
        found = {job.kind: job.traceparent for job in session.scalars(select(Job).where(Job.traceparent.is_not(None)))}
        sent = session.execute(select(Delivery.kind, Delivery.traceparent)).all()
    assert found == {"unlearn": GIVEN, "purge": GIVEN}
    assert {"request.accepted", "batch.closed", "request.published", "request.fulfilled"} <= {kind for kind, _ in sent}
    assert {traceparent for _, traceparent in sent} == {GIVEN}
    assert account.http.get(f"/v1/deletion-requests/{request}").json()["status"] == "fulfilled"
    [call] = [line for line in lines.found if line.get("method") == "POST" and "deletion" in str(line["route"])]
    assert call["trace_id"] == TRACE
    of_jobs = [line for line in lines.found if line.get("kind") in ("unlearn", "purge")]
    assert len(of_jobs) >= 4
    assert {line.get("trace_id") for line in of_jobs} == {TRACE}

    with receiver(tmp_path) as there:
        with account.database.write() as session:
            session.get_one(Webhook, "whk_1").url = f"{there.url}/ok"
        deliveries.send_due(account.database, "whk_1", allow_private=True)
    assert {got.headers["traceparent"] for got in there.got()} == {GIVEN}


@pytest.mark.parametrize("given", ["", "00-nonsense", f"00-{'0' * 32}-00f067aa0ba902b7-01", "x" * 5000])
@pytest.mark.validation
def test_what_is_no_trace_is_ignored(trained: Trained, given: str) -> None:
    forget(trained, trained.ids[:1], given)
    with trained.account.database.read() as session:
        assert session.scalars(select(Job).where(Job.traceparent.is_not(None))).all() == []


def test_requests_that_share_a_transaction_keep_their_own_traces(trained: Trained) -> None:
    from app.api.deletions import DeletionCreate, _reply, order_of
    from app.api.http.intake import Intake, Posted

    token = trained.account.http.headers["authorization"].partition(" ")[2]
    other = GIVEN.replace("4bf9", "1111")

    def posted(sample: str, traceparent: str | None) -> Posted:
        body = DeletionCreate(dataset=trained.dataset, sample_ids=[sample])
        return Posted(token, lambda who: order_of(body, who, traceparent), "/r", None, b"", _reply)

    group = [posted(sample, trace) for sample, trace in zip(trained.ids[:3], (GIVEN, None, other), strict=True)]
    Intake(trained.account.database, trained.account.settings)(group)
    with trained.account.database.read() as session:
        found = session.scalars(select(Job.traceparent).where(Job.kind == "unlearn").order_by(Job.id)).all()
    assert set(found) == {GIVEN, None, other}


@pytest.mark.validation
def test_with_the_sdk_a_deletion_is_one_tree_of_spans_without_texts_of_errors(
    trained: Trained, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(trained, trained.ids[:3])
    trained.account.work()
    found = [span for span in spans.get_finished_spans() if span.context and span.context.trace_id == int(TRACE, 16)]
    named = {span.name: span for span in found}
    call, unlearn, purge = named["POST /v1/deletion-requests"], named["job unlearn"], named["job purge"]
    assert (call.kind, unlearn.kind) == (SpanKind.SERVER, SpanKind.CONSUMER)
    assert parent(call) == int(GIVEN.split("-")[2], 16)
    assert parent(unlearn) == call.context.span_id
    assert parent(purge) in {span.context.span_id for span in found}
    assert {"attack", "finetune", "audit"} <= {span.name for span in found if parent(span) == unlearn.context.span_id}
    assert call.attributes is not None
    assert call.attributes["http.response.status_code"] == 202
    assert not any(sample in span.to_json() for span in found for sample in trained.ids[:3])

    def fails(*_: object) -> None:
        raise KeyError("sample-0815")

    spans.clear()
    monkeypatch.setattr("app.api.http.paging.Pager.rows", fails)
    assert trained.account.http.get("/v1/jobs", headers={"traceparent": GIVEN}).status_code == 500
    [failed] = spans.get_finished_spans()
    assert failed.attributes is not None
    assert failed.attributes["http.response.status_code"] == 500
    assert "0815" not in failed.to_json()
    trained.account.http.get("/readyz")
    assert len(spans.get_finished_spans()) == 1, "probes have no spans"


def parent(span: ReadableSpan) -> int:
    return span.parent.span_id if span.parent else 0
