"""What all parts of a service log while it does its main job, and while it fails: JSON lines, and nobody's ids."""

from __future__ import annotations

import io
import json
import re
import socket
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from lethe import Client, ProblemError
from tests.conftest import POSTGRES, REDIS
from tests.receiver import Got, Receiver, receiver
from tests.support import QUICK_MODEL, QUICK_POLICY, embedded, eventually, production, scratch_database

SAMPLE, SUBJECT = "canary-sample", "canary-person"
DATABASE = "canary-database"


@dataclass
class Service:
    client: Client
    folder: Path
    url: str

    @property
    def lines(self) -> list[str]:
        return (self.folder.parent / f"{self.folder.name}.log").read_text().splitlines()

    def spoil(self, table: str) -> None:
        """From now on the database refuses new rows of a table, with a text that has a sample id in it."""
        if not self.url:
            with sqlite3.connect(self.folder / "lethe.db", timeout=30) as connection:
                raising = f"SELECT RAISE(ABORT, '{DATABASE} {SAMPLE}-0001')"
                connection.execute(f"CREATE TRIGGER t_{table} BEFORE INSERT ON {table} BEGIN {raising}; END")
            return
        with psycopg.connect(self.url, autocommit=True) as connection:
            body = f"BEGIN RAISE EXCEPTION '{DATABASE} {SAMPLE}-0001'; END"
            connection.execute(f"CREATE FUNCTION f_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$")
            connection.execute(f"CREATE TRIGGER t_{table} BEFORE INSERT ON {table} EXECUTE FUNCTION f_{table}()")

    def mend(self, table: str) -> None:
        if not self.url:
            with sqlite3.connect(self.folder / "lethe.db", timeout=30) as connection:
                connection.execute(f"DROP TRIGGER t_{table}")
            return
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"DROP TRIGGER t_{table} ON {table}")


@pytest.fixture(params=["embedded", pytest.param("production", marks=pytest.mark.services)])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    folder, settings = tmp_path / "data", {"webhooks_to_private": "true"}
    if request.param == "embedded":
        with embedded(folder, **settings) as client:
            yield Service(client, folder, "")
        return
    with scratch_database(POSTGRES) as url, production(folder, url, REDIS, **settings) as client:
        yield Service(client, folder, url)


def people(path: Path) -> Path:
    """Parquet of 240 small pictures of three kinds, two to a person, every fifth held out."""
    generator = np.random.default_rng(0)
    rows = []
    for number in range(240):
        label = number % 3
        picture = generator.integers(0, 90, (8, 8)).astype(np.uint8)
        picture[:, label * 2 : label * 2 + 3] += 120
        data = io.BytesIO()
        Image.fromarray(picture, "L").save(data, "PNG")
        rows.append(
            {
                "id": f"{SAMPLE}-{number:04d}",
                "image": data.getvalue(),
                "label": label,
                "split": "holdout" if number % 5 == 0 else "train",
                "subject": f"{SUBJECT}-{number // 2:04d}",
            }
        )
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


def kinds(got: list[Got], of: str) -> list[str]:
    """Of the messages that tell of it, each counted once however often it came."""
    once = {each.id: each.event for each in got}.values()
    return [event["type"] for event in once if event["data"]["id"] == of]


def test_a_service_logs_what_happens_and_never_whose_samples(service: Service, tmp_path: Path) -> None:
    hang_ups(service)
    with receiver(tmp_path) as listening:
        secrets = use(service, listening, tmp_path)
    text = "\n".join(service.lines)
    lines = [json.loads(line) for line in service.lines]
    for line in lines:
        assert {"at", "level", "part", "logger", "message"} <= line.keys()
    for secret in (SAMPLE, SUBJECT, DATABASE, "sample_ids", *secrets):
        assert secret not in text, secret

    # The lines say enough: every part, requests with their tenant, jobs with their stage and attempt, failures.
    assert {"api", "worker", "sweep"} <= {line["part"] for line in lines}
    posts = [line for line in lines if line.get("route") == "/v1/models" and line.get("method") == "POST"]
    assert [(post["status"], post["tenant"]) for post in posts] == [(499, "ten_first"), (201, "ten_first")]
    failures = [line for line in lines if line.get("exception")]
    assert any("IntegrityError" in line["exception"] or "RaiseException" in line["exception"] for line in failures)
    failed = [line for line in failures if line["part"] == "worker"]
    assert {(line["kind"], line["attempt"]) for line in failed} == {("unlearn", n) for n in (1, 2, 3)}
    assert all(line["job"].startswith("job_") and line["stage"] and line["fence"] for line in failed)
    assert all(re.fullmatch(r"\S+:\d+ \S+", place) for line in failures for place in line["trace"])


def use(service: Service, listening: Receiver, folder: Path) -> list[str]:
    """The main job, then one that fails, is retried and succeeds; what must not be in the log."""
    client = service.client
    hook = client.webhooks.create(f"{listening.url}/ok", ["request.*"])
    dataset = client.datasets.register("people")["id"]
    client.jobs.wait(str(client.datasets.upload(dataset, people(folder / "people.parquet"))["job"]))
    model = client.post("/v1/models", {"name": "m", "dataset": dataset, **QUICK_MODEL, "policy": QUICK_POLICY})["id"]
    client.jobs.wait(client.models.train(model, seed=1)["id"])
    first = client.requests.create(dataset, [f"{SAMPLE}-0001", f"{SAMPLE}-0002"])["id"]
    assert client.requests.wait(first)["status"] == "fulfilled"
    second = client.requests.create(dataset, subjects=[f"{SUBJECT}-0004"])["id"]
    assert client.requests.wait(second)["status"] == "fulfilled"
    for path, body in (
        ("/v1/deletion-requests", {"dataset": dataset, "sample_ids": [f"{SAMPLE}-0001", f"{SAMPLE}-9999"]}),
        ("/v1/deletion-requests", {"dataset": dataset, "subjects": [f"{SUBJECT}-9999"]}),
        ("/v1/deletion-requests", {"dataset": dataset, f"{SAMPLE}-0001": 1}),
        (f"/v1/datasets/{SAMPLE}-0001", {}),
    ):
        with pytest.raises(ProblemError):
            client.post(path, body)

    service.spoil("webhooks")
    with pytest.raises(ProblemError) as unexpected:
        client.webhooks.create(f"{listening.url}/other")
    assert unexpected.value.status == 500
    service.spoil("versions")
    third = client.requests.create(dataset, [f"{SAMPLE}-0011"])
    assert client.requests.wait(third["id"])["status"] == "needs-attention"
    service.mend("versions")
    client.jobs.retry(str(third["outcomes"][0]["job"]))
    assert client.requests.wait(third["id"])["status"] == "fulfilled"

    whole = ["request.accepted", "request.published", "request.fulfilled"]
    troubled = ["request.accepted", "request.needs-attention", "request.published", "request.fulfilled"]
    eventually(lambda: sorted(kinds(listening.got(), third["id"])) == sorted(troubled), "the webhooks")
    eventually(lambda: sorted(kinds(listening.got(), first)) == sorted(whole), "the webhooks of the first")
    assert all(got.signed_by(str(hook["secret"])) for got in listening.got())
    assert all(SAMPLE not in got.body and SUBJECT not in got.body for got in listening.got())
    key = (service.folder / "api-key").read_text().strip()
    # The key's secret is base64url and may itself hold an underscore.
    return [key, key.split("_", 2)[2], str(hook["secret"]), *secrets_of(hook)]


def hang_ups(service: Service) -> None:
    """A client that hangs up while it sends is no failure."""
    client = service.client
    dataset = client.datasets.register("people")["id"]
    sends = [
        ("POST", "/v1/deletion-requests", "application/json"),
        ("POST", "/v1/deletion-requests:import", "application/x-ndjson"),
        ("POST", "/v1/models", "application/json"),
        ("PUT", f"/v1/datasets/{dataset}/content", "application/vnd.apache.parquet"),
    ]
    for method, path, form in sends:
        hang_up(service, method, path, form)

    def ends() -> list[Any]:
        lines = [json.loads(line) for line in service.lines]
        return [line for line in lines if line["logger"] == "lethe.request" and line.get("status") == 499]

    eventually(lambda: len(ends()) >= len(sends), "the four requests to end")
    assert {(line["level"], line["method"]) for line in ends()} == {("info", "POST"), ("info", "PUT")}
    of_api = [line for line in map(json.loads, service.lines) if line["part"] == "api"]
    assert {line["level"] for line in of_api} <= {"info", "debug"}
    assert [*client.requests.list(), *client.models.list()] == []
    assert client.datasets.get(dataset)["state"] == "awaiting-content"
    assert list((service.folder / "blobs" / "incoming").iterdir()) == []


def hang_up(service: Service, method: str, path: str, form: str) -> None:
    """Send the head and half of a body, and be gone."""
    url = service.client._calls._http.base_url
    key = (service.folder / "api-key").read_text().strip()
    head = f"{method} {path} HTTP/1.1\r\nHost: {url.host}\r\nAuthorization: Bearer {key}\r\n"
    with socket.create_connection((url.host, url.port)) as connection:
        connection.sendall(f'{head}Content-Type: {form}\r\nContent-Length: 100\r\n\r\n{{"name":'.encode())


def secrets_of(hook: Any) -> list[str]:
    return [str(hook["secret"]).removeprefix("whsec_")]
