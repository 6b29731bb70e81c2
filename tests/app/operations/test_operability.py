"""Request ids, log lines, metrics and the alerts on them."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from app.core import db, logs
from app.core.config import Settings
from app.core.db import Database
from app.core.tables import Job, JobEvent, Outbox, StageTime, Worker
from tests.helpers import is_problem
from tests.support import Account
from tests.trained import Trained

ROOT = Path(__file__).parents[3]
IDS = re.compile(r"(job|del|mdl|dst|ten|key|whk|msg|req)_[0-9a-z]{26}")


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What the service logs, in JSON."""
    stream, root = io.StringIO(), logging.getLogger()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.Lines("api", "json"))
    handler.addFilter(lambda record: record.name not in ("httpx", "httpx2"))  # the client of these tests
    root.addHandler(handler)
    level = root.level
    root.setLevel(logging.INFO)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


def logged(stream: io.StringIO, logger: str = "lethe.request") -> list[dict[str, Any]]:
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [line for line in found if line["logger"] == logger]


# -- requests --------------------------------------------------------------------------------------


@pytest.mark.validation
def test_a_request_id_is_taken_or_made_and_is_in_reply_problem_and_log(account: Account, lines: io.StringIO) -> None:
    given = account.http.get("/v1/models/mdl_" + "0" * 26, headers={"X-Request-Id": "theirs-0815"})
    made = account.http.get("/v1/jobs", params={"page_token": "nonsense"})
    assert given.headers["x-request-id"] == given.json()["request_id"] == "theirs-0815"
    assert re.fullmatch(r"req_[0-9a-z]{26}", made.json()["request_id"])
    assert made.headers["x-request-id"] == made.json()["request_id"]
    first, second = logged(lines)
    assert (first["request"], first["status"], first["route"]) == ("theirs-0815", 404, "/v1/models/{model}")
    assert (first["method"], first["tenant"], first["part"]) == ("GET", "ten_first", "api")
    assert first["ms"] > 0
    assert (second["request"], second["route"]) == (made.json()["request_id"], "/v1/jobs")
    assert "nonsense" not in lines.getvalue()


@pytest.mark.parametrize("given", ["short", "x" * 65, "with space in it", 'quote"d-quoted', "line%0abreak"])
@pytest.mark.validation
def test_an_insane_request_id_is_replaced(account: Account, given: str) -> None:
    assert account.http.get("/healthz", headers={"X-Request-Id": given}).headers["x-request-id"].startswith("req_")


@pytest.mark.validation
def test_a_path_that_is_no_route_is_not_logged(account: Account, lines: io.StringIO) -> None:
    assert account.http.get("/v1/sample-0815").status_code == 404
    [line] = logged(lines)
    assert (line["route"], line["status"]) == ("unmatched", 404)
    assert "0815" not in lines.getvalue()


@pytest.mark.validation
def test_an_unexpected_error_is_a_problem_with_an_id_and_no_text_of_it_anywhere(
    account: Account, lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise KeyError("sample-0815")

    monkeypatch.setattr("app.api.http.paging.Pager.rows", fails)
    problem = is_problem(account.http.get("/v1/jobs"), 500, "internal")
    failure = logged(lines, "lethe")[0]
    assert failure["request"] == problem["request_id"]
    assert failure["exception"] == "KeyError"
    assert any(place.endswith(" fails") for place in failure["trace"])
    assert logged(lines)[0]["status"] == 500
    assert "0815" not in lines.getvalue()


@pytest.mark.validation
def test_probes_are_not_logged(account: Account, lines: io.StringIO) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert account.http.get(path).status_code == 200
    assert logged(lines) == []


# -- metrics ---------------------------------------------------------------------------------------


def scraped(http: TestClient) -> dict[str, Metric]:
    response = http.get("/metrics")
    assert response.status_code == 200
    return {family.name: family for family in text_string_to_metric_families(response.text)}


def samples(family: Metric) -> dict[tuple[str, ...], float]:
    return {tuple(sample.labels.values()): sample.value for sample in family.samples}


@pytest.mark.validation
def test_the_exposition_parses_and_follows_the_conventions(trained: Trained) -> None:
    account = trained.account
    trained.forget(trained.ids[:5])
    account.http.get("/v1/nothing")
    families = scraped(account.http)
    assert len(families) >= 20
    for name, family in families.items():
        assert name.startswith("lethe_")
        assert re.fullmatch(r"[a-z][a-z_]*[a-z]", name)
        assert len(family.documentation) > 10
        assert family.documentation.endswith(".")
        assert not name.endswith(("_total", "_count", "_ms", "_minutes", "_kb"))
        assert name.endswith(("_seconds", "_bytes")) or not re.search("second|byte", name)
        for sample in family.samples:
            if family.type == "counter":
                assert sample.name == f"{name}_total"
            for label, value in sample.labels.items():
                assert re.fullmatch(r"[a-z]+", label)
                assert not IDS.search(value), (name, value)
    routes = {key[1] for key in samples(families["lethe_http_request_duration_seconds"])}
    assert "/v1/deletion-requests" in routes
    assert "unmatched" in routes
    assert not any("del_" in route for route in routes)


def test_the_figures_are_those_of_the_database(account: Account) -> None:
    with account.database.write() as session:
        now = db.now(session)
        common = {"tenant_id": "ten_first", "params": {}, "seed": 1, "available_at": now, "created_at": now}
        for number, (kind, state, fence) in enumerate(
            [("train", "queued", 0), ("train", "queued", 2), ("purge", "dead", 3), ("train", "succeeded", 1)]
        ):
            job = Job(id=f"job_{number}", kind=kind, state=state, fence=fence, lane=f"l{number}", **common)
            session.add(job)
        session.flush()
        session.add(JobEvent(job_id="job_2", kind="lease-lost", data={}, at=now))
        session.add(Outbox(topic="blob", key="sha256:0", created_at=now))
        session.add(StageTime(kind="train", stage="train", seconds=12.5, runs=3))
        session.add(Worker(name="w1", device="cuda:0", seen_at=now, device_memory=5, label="", kinds=[]))
    found = scraped(account.http)
    assert samples(found["lethe_jobs"]) == {("train", "queued"): 2, ("purge", "dead"): 1, ("train", "succeeded"): 1}
    assert samples(found["lethe_job_attempts"]) == {("train",): 3, ("purge",): 3}
    assert list(samples(found["lethe_queue_age_seconds"])) == [("train",)]
    assert samples(found["lethe_lease_losses"]) == {(): 1}
    assert samples(found["lethe_outbox_messages"]) == {("blob",): 1}
    stages = {sample.name: sample.value for sample in found["lethe_stage_seconds"].samples}
    assert stages == {"lethe_stage_seconds_sum": 12.5, "lethe_stage_seconds_count": 3}
    assert samples(found["lethe_workers"]) == {("cuda:0",): 1}
    assert samples(found["lethe_device_memory_peak_bytes"]) == {("cuda:0", "w1"): 5}
    assert samples(found["lethe_webhook_deliveries"]) == {("pending",): 0, ("failed",): 0}
    assert samples(found["lethe_open_requests"]) == {(): 0}
    assert samples(found["lethe_time_to_deadline_seconds"]) == {}


def test_deadlines_are_counted(trained: Trained) -> None:
    trained.delete(trained.ids[:2])
    trained.delete(trained.ids[2:4])
    trained.delete(trained.ids[4:6])
    with trained.account.database.write() as session:
        rows = session.execute(text("SELECT id FROM deletion_requests ORDER BY id")).scalars().all()
        for request, due in zip(rows, ("2020-01-01 00:00:00", "2090-01-01 00:00:00"), strict=False):
            session.execute(
                text("UPDATE deletion_requests SET due_at = :due WHERE id = :id"), {"due": due, "id": request}
            )
    found = scraped(trained.account.http)
    values = [samples(found[f"lethe_{name}_requests"])[()] for name in ("open", "overdue", "due_soon")]
    assert values == [3, 1, 0]
    assert samples(found["lethe_time_to_deadline_seconds"])[()] < 0


@pytest.mark.validation
def test_no_query_of_a_scrape_reads_a_table_that_grows(settings: Settings, database: Database) -> None:
    """On SQLite, whose plans are plain to read: jobs, requests, events, audits, deliveries only through an index."""
    if settings.database_url:
        return
    from sqlalchemy import event

    from app.operations import metrics

    asked: list[tuple[str, Any]] = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def _keep(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    metrics.exposition(metrics.registry(database, settings))
    plans = []
    with database.engine.connect() as connection:
        raw: Any = connection.connection.driver_connection
        for statement, parameters in asked:
            if statement.startswith("SELECT"):
                plans += [row[3] for row in raw.execute("EXPLAIN QUERY PLAN " + statement, parameters)]
    assert len(plans) > 10
    grows = ("jobs", "job_events", "deletion_requests", "audit_reports", "events", "deliveries")
    whole = [plan for plan in plans if plan.startswith("SCAN") and plan.split()[1] in grows and "INDEX" not in plan]
    assert whole == []


# -- alerts ----------------------------------------------------------------------------------------


def exported_names(trained: Trained) -> set[str]:
    """Of families and of samples, after a deletion."""
    trained.forget(trained.ids[:5])
    exported = set()
    for family in scraped(trained.account.http).values():
        exported |= {family.name, *(sample.name for sample in family.samples)}
        exported |= {f"{family.name}_total"} if family.type == "counter" else set()
    return exported


@pytest.mark.validation
def test_every_alert_speaks_of_metrics_that_exist_and_says_what_to_do(trained: Trained) -> None:
    exported = exported_names(trained)
    groups = yaml.safe_load((ROOT / "docs/alerts.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) >= 12
    guide = (ROOT / "docs/operations.md").read_text()
    for rule in rules:
        assert {"alert", "expr", "labels", "annotations"} <= rule.keys()
        assert rule["labels"]["severity"] in ("page", "ticket")
        named = set(re.findall(r"lethe_[a-z_]+", rule["expr"]))
        assert named <= exported, rule["alert"]
        assert named or "up{" in rule["expr"]
        assert f"### {rule['alert']}" in guide
        assert {"summary", "runbook"} <= rule["annotations"].keys()
    for name in re.findall(r"`(lethe_[a-z_]+)`", guide):
        assert name in exported, name


@pytest.mark.validation
def test_the_dashboard_shows_every_metric_and_none_that_is_not_there(trained: Trained) -> None:
    exported = exported_names(trained)
    dashboard = json.loads((ROOT / "deploy/grafana/lethe.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    shown: set[str] = set()
    for panel in panels:
        named = {name for target in panel["targets"] for name in re.findall(r"lethe_[a-z_]+", target["expr"])}
        assert named, panel["title"]
        assert named <= exported, panel["title"]
        units = {"s" if "_seconds" in name else "bytes" if name.endswith("_bytes") else "" for name in named}
        counted = any("_seconds_count" in target["expr"] and "/" not in target["expr"] for target in panel["targets"])
        assert panel["fieldConfig"]["defaults"]["unit"] in (units - {""} if not counted else {"reqps"}) or units == {""}
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["description"].endswith(".")
        shown |= named
    families = {re.sub("_(total|sum|count|bucket)$", "", name) for name in shown}
    assert families == {re.sub("_(total|sum|count|bucket)$", "", name) for name in exported}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    taken = [
        (x, y)
        for grid in (panel["gridPos"] for panel in dashboard["panels"])
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(set(taken)) == len(taken), "no panel lies on another"
    assert max(x for x, _ in taken) < 24
