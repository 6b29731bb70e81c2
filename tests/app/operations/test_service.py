"""Health, schema, and the OpenAPI document."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from fastapi.testclient import TestClient
from pydantic import TypeAdapter
from sqlalchemy import DateTime, bindparam, select, text

from app.api.schemas import DatasetOut, DeletionOut, JobOut, ModelOut, Problem, Readiness, VersionOut
from app.core import db
from app.core.config import Settings
from app.core.db import Database
from app.core.tables import ApiKey, AuditEvent, Base, Tenant, Webhook
from app.jobs import workers
from app.main import create_app
from app.operations import migrate, sweepers
from tests.app.cases.sealed import sweep
from tests.conftest import POSTGRES
from tests.helpers import is_problem
from tests.support import Account, environment, eventually, scratch_database
from tests.trained import Trained

# -- health ----------------------------------------------------------------------------------------


def test_without_a_worker_jobs_are_accepted_and_wait_and_run_when_one_comes(trained: Trained) -> None:
    account = trained.account
    without = TestClient(account.http.app)
    assert without.get("/healthz").json() == {"status": "ok"}
    found = without.get("/readyz").json()
    assert (found["status"], found["database"], found["workers"]) == ("starting", "ok", 0)
    account.http.app.state.parts.since -= 30  # type: ignore[attr-defined]
    found = without.get("/readyz").json()
    assert found["status"] == "degraded"
    assert "no worker" in found["degraded"][0]
    made = trained.delete(trained.ids[:3])
    assert made["status"] == "processing"
    assert account.get(f"/v1/jobs/{made['outcomes'][0]['job']}")["state"] == "queued"
    workers.start(account.settings)
    sweepers.say(account.database, account.settings)
    try:
        ready = eventually(lambda: (r := without.get("/readyz").json())["workers"] and r, "the sign of life")
        assert (ready["status"], ready["degraded"], ready["broker"]) == ("ready", [], "none")
        account.work()
    finally:
        workers.stop()
    assert trained.request(made)["status"] == "fulfilled"
    assert without.get("/readyz").json()["workers"] == 0


def test_an_unreachable_broker_is_degraded_and_jobs_are_accepted(shared: Trained) -> None:
    settings = shared.account.settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"})
    with TestClient(create_app(settings)) as http:
        http.headers.update(shared.account.http.headers)
        found = http.get("/readyz").json()
        assert (found["status"], found["broker"]) == ("degraded", "unreachable")
        assert http.post(f"{shared.where}:precompute", json={}).status_code == 202


def test_without_its_database_the_service_is_not_ready(account: Account) -> None:
    with account.database.write() as session:
        session.execute(text("ALTER TABLE workers RENAME TO elsewhere"))
    is_problem(account.http.get("/readyz"), 503, "database-unavailable")
    assert account.http.get("/healthz").status_code == 200


# -- schema ----------------------------------------------------------------------------------------


@pytest.fixture
def empty(settings: Settings) -> Iterator[Database]:
    found = Database(settings)
    yield found
    found.close()


def test_the_migrations_make_exactly_the_tables_of_the_code(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "target_metadata": Base.metadata})
        assert compare_metadata(context, Base.metadata) == []


def test_decisions_and_subscriptions_of_an_older_schema_get_the_new_words(trained: Trained) -> None:
    """Down to the schema of 0.1 and up again; the log's entries keep the names that they have."""
    account = trained.account
    made = trained.delete(trained.ids[:3])
    account.post(f"/v1/deletion-requests/{made['id']}:cancel", {"reason": "changed their mind"})
    kinds = ["request.cancelled", "version.*", "gate.escalated"]
    with account.database.write() as session:
        tenant, now = session.scalars(select(Tenant.id)).one(), db.now(session)
        session.add(Webhook(id="whk_a", tenant_id=tenant, url="https://a/", secret="s", events=kinds, created_at=now))

    def move(to: str) -> tuple[str, list[str], list[str]]:
        with account.database.engine.connect().execution_options(lethe_write=True) as connection, connection.begin():
            config = migrate._config()
            config.attributes["connection"] = connection
            (command.downgrade if to == "0003" else command.upgrade)(config, to)
        with account.database.read() as session:
            row = session.execute(text("SELECT decision FROM deletion_requests WHERE id = :id"), {"id": made["id"]})
            about = select(AuditEvent.kind).where(AuditEvent.object_id == made["id"]).order_by(AuditEvent.number)
            return row.scalar_one(), session.get_one(Webhook, "whk_a").events, list(session.scalars(about))

    told = ["request.accepted", "request.cancelled"]
    assert move("0003") == ("withdrawn", ["request.withdrawn", "version.*", "gate.climbed"], told)
    assert move("head") == ("cancelled", kinds, told)
    assert account.get(f"/v1/deletion-requests/{made['id']}")["status"] == "cancelled"
    assert account.get("/v1/deletion-requests", decision="cancelled")["items"][0]["id"] == made["id"]


def test_keys_of_an_older_schema_keep_their_lives(empty: Database) -> None:
    made = datetime.fromisoformat("2026-01-01T12:00:00")
    ends = {"key_a": None, "key_b": made + timedelta(days=30), "key_c": made + timedelta(days=2, seconds=7)}
    columns = "(id, tenant_id, name, digest, scopes, created_at, expires_at)"
    with empty.engine.connect().execution_options(lethe_write=True) as connection, connection.begin():
        config = migrate._config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        tenant = text("INSERT INTO tenants (id, name, created_at) VALUES ('t', 't', :at)")
        connection.execute(tenant.bindparams(bindparam("at", made, DateTime)))
        for key, end in ends.items():
            values = "(:id, 't', 'k', 'd', '[]', :at, :end)"
            row = text(f"INSERT INTO api_keys {columns} VALUES {values}").bindparams(
                bindparam("id", key), bindparam("at", made, DateTime), bindparam("end", end, DateTime)
            )
            connection.execute(row)
    migrate.migrate(empty)
    with empty.read() as session:
        lives = {key.id: (key.lifetime_days, key.expires_at) for key in session.scalars(select(ApiKey))}
    assert lives == {"key_a": (None, None), "key_b": (30, ends["key_b"]), "key_c": (3, ends["key_c"])}


def test_an_old_and_a_newer_schema_are_refused_with_words(empty: Database, settings: Settings) -> None:
    with pytest.raises(migrate.SchemaError, match="lethe migrate"):
        migrate.check(empty)
    migrate.migrate(empty)
    migrate.check(empty)
    migrate.migrate(empty)
    with empty.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for refuse in (migrate.check, migrate.migrate):
        with pytest.raises(migrate.SchemaError, match="newer than this program"):
            refuse(empty)
    url = {"database_url": settings.database_url} if settings.database_url else {}
    env = environment(settings.data_dir, **url)
    done = subprocess.run([sys.executable, "-m", "app", "migrate"], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "newer than this program" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.services
@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_that_cannot_hold_every_text_is_refused_with_words(tmp_path: Path, encoding: str) -> None:
    with scratch_database(POSTGRES, "template0", encoding) as url:
        database = Database(Settings(data_dir=tmp_path, database_url=url))
        for refuse in (migrate.check, migrate.migrate):
            with pytest.raises(migrate.SchemaError, match=f"encoding {encoding}.*UTF8"):
                refuse(database)
        database.close()


@pytest.mark.validation
def test_two_may_migrate_at_once(settings: Settings, empty: Database) -> None:
    failures: list[BaseException] = []
    gate = threading.Barrier(4)

    def one() -> None:
        database = Database(settings)
        try:
            gate.wait(60)
            migrate.migrate(database)
        except BaseException as error:
            failures.append(error)
        finally:
            database.close()

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    migrate.check(empty)


def test_an_application_that_is_no_longer_used_is_freed(tmp_path: Path) -> None:
    """FastAPI remembers route functions for as long as the process lives: none may hold the application."""
    app = weakref.ref(create_app(Settings(data_dir=tmp_path)))
    gc.collect()
    assert app() is None


# -- the OpenAPI document --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def document(shared: Trained) -> dict[str, Any]:
    found: dict[str, Any] = shared.account.get("/v1/openapi.json")
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method, path, operation


def test_every_operation_says_how_it_is_refused_and_that_it_needs_a_key(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    seen = 0
    for method, path, operation in operations(document):
        if path in ("/healthz", "/readyz", "/metrics"):
            assert "security" not in operation
            continue
        seen += 1
        assert operation["security"], (method, path)
        for status in ("401", "422"):
            content = operation["responses"][status]["content"]
            assert list(content) == ["application/problem+json"], (method, path, status)
        wanted = set(re.findall(r"{(\w+)}", path))
        described = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
        assert wanted == described, (method, path)
        if wanted:
            assert "404" in operation["responses"], (method, path)
        if method == "post":
            names = {parameter["name"] for parameter in operation.get("parameters", ())}
            assert "Idempotency-Key" in names, (method, path)
            assert "413" in operation["responses"], (method, path)
        assert operation.get("summary")
    assert seen >= 20
    schemes = document["components"]["securitySchemes"]
    assert [scheme["scheme"] for scheme in schemes.values()] == ["bearer"]


def test_the_scopes_in_the_document_are_those_that_a_key_needs(shared: Trained, document: dict[str, Any]) -> None:
    every = {"read", "request", "operate", "samples", "audit", "admin"}
    prefixes = {"audit": "aud", "request": "del", "dataset": "dst", "job": "job", "api_key": "key", "model": "mdl",
                "delivery": "msg", "webhook": "whk", "version": "ver", "notice": "ntc", "paper": "pap"}  # fmt: skip
    ids = {noun: f"{prefix}_{'0' * 26}" for noun, prefix in prefixes.items()}
    ids |= {"number": "1", "alias": "a", "digest": "sha256:" + "0" * 64, "kind": "refusal", "language": "en"}
    keys: dict[str, str] = {}
    for left_out in every:
        made = shared.account.post("/v1/api-keys", {"name": left_out, "scopes": sorted(every - {left_out})})
        keys[left_out] = made["token"]
    for method, path, operation in operations(document):
        if "security" not in operation:
            continue
        ((scopes,),) = [way.values() for way in operation["security"] if way]  # without a key, where that is a way
        assert scopes, path
        for scope in every:
            reply = shared.account.http.request(
                method, path.format(**ids), headers={"Authorization": f"Bearer {keys[scope]}"}, json={}
            )
            missing = reply.status_code == 403 and reply.json()["type"].endswith("scope-missing")
            assert missing == (scope in scopes), (method, path, scope, reply.text)


def test_every_reference_in_the_document_leads_somewhere(document: dict[str, Any]) -> None:
    def references(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    for reference in set(references(document)):
        node: Any = document
        for part in reference.removeprefix("#/").split("/"):
            assert part in node, reference
            node = node[part]


def test_no_sample_id_goes_into_a_path_or_a_query(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        names = [parameter["name"] for parameter in operation.get("parameters", ())]
        assert not [name for name in [path, *names] if "sample" in name and "samples" not in name], (method, path)


def test_replies_fit_their_models_and_hold_nothing_else(trained: Trained) -> None:
    account = trained.account
    final = trained.forget(trained.ids[:5])
    job = final["outcomes"][0]["job"]
    problem = account.http.get("/v1/jobs/job_" + "0" * 26).json()
    for model, found in (
        (DatasetOut, account.get(f"/v1/datasets/{trained.dataset}")),
        (ModelOut, account.get(trained.where)),
        (VersionOut, account.get(f"{trained.where}/versions/2")),
        (VersionOut, account.get(f"{trained.where}/versions")["items"][-1]),
        (DeletionOut, final),
        (DeletionOut, account.get("/v1/deletion-requests")["items"][0]),
        (JobOut, account.get(f"/v1/jobs/{job}")),
        (Readiness, account.http.get("/readyz").json()),
        (Problem, problem),
    ):
        parsed = TypeAdapter(model).validate_python(found, strict=False)
        assert parsed.model_dump(mode="json") == found, model
        stamps = [value for key, value in found.items() if key.endswith("_at") and value is not None]
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", stamp) for stamp in stamps)


@pytest.mark.validation
def test_the_audit_is_json_or_a_page_by_what_is_accepted(trained: Trained) -> None:
    trained.forget(trained.ids[::10])
    where, http = f"{trained.where}/versions/2/audit", trained.account.http
    found = http.get(where)
    assert found.headers["content-type"] == "application/json"
    assert found.headers["vary"] == "Accept"
    assert found.json()["report"]["checkpoint"] == trained.account.get(f"{trained.where}/versions/2")["digest"]
    page = http.get(where, headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert page.headers["content-type"].startswith("text/html")
    for text_ in (found.text, page.text):
        assert not [sample for sample in trained.ids if sample in text_]
    is_problem(http.get(f"{trained.where}/versions/1/audit"), 404, "not-found")


# -- comparisons -----------------------------------------------------------------------------------


@pytest.mark.validation
def test_a_comparison_names_a_request_and_is_never_published(trained: Trained) -> None:
    account, http, where = trained.account, trained.account.http, f"{trained.where}:train"
    made = trained.delete(trained.ids[:5])
    is_problem(http.post(where, json={"compare_only": True}), 422, "comparison-incomplete")
    is_problem(http.post(where, json={"exclude_request": made["id"]}), 422, "comparison-incomplete")
    nobody = {"exclude_request": "del_" + "0" * 26, "compare_only": True}
    is_problem(http.post(where, json=nobody), 404, "not-found")
    wanted = {"exclude_request": made["id"], "compare_only": True}
    job = account.post(where, wanted)["id"]
    account.work()
    assert account.get(f"/v1/jobs/{job}")["state"] == "succeeded"
    assert trained.request(made)["status"] == "fulfilled"
    version = account.get(f"{trained.where}/versions/3")
    assert (version["origin"], version["state"]) == ("comparison", "candidate")
    assert version["trained_samples"] == len(trained.ids) - 5
    assert account.get(trained.where)["current_version"] == 2
    retrained = account.get(f"{trained.where}/versions/2/audit")["retrained"]
    assert retrained["version"] == 3
    is_problem(http.post(where, json=wanted), 409, "samples-erased")


@pytest.mark.validation
def test_a_comparison_for_a_request_of_another_dataset_or_model_is_refused(trained: Trained) -> None:
    account = trained.account
    twin = account.digits()["id"]
    other = account.model(twin)
    theirs = account.delete(twin, account.training_ids(twin)[:5])
    wanted = {"exclude_request": theirs["id"], "compare_only": True}
    is_problem(account.http.post(f"{trained.where}:train", json=wanted), 404, "not-found")
    scoped = trained.delete(trained.ids[:5], model=trained.model)
    beside = account.model(trained.dataset, train=False)["id"]
    job = account.post(f"/v1/models/{beside}:train", {"exclude_request": scoped["id"], "compare_only": True})["id"]
    account.work()
    found = account.get(f"/v1/jobs/{job}")
    assert (found["state"], found["problem"]["type"].rpartition("/")[2]) == ("failed", "not-affected")
    assert account.get(f"/v1/models/{beside}")["current_version"] is None
    assert other["current_version"] == 1


@pytest.mark.validation
def test_the_first_key_can_be_read_by_its_owner_only(settings: Settings, database: Database) -> None:
    for path in (settings.key_file, settings.data_dir / "secret"):
        settings.secret_bytes()
        assert Path(path).stat().st_mode & 0o777 == 0o600
    assert settings.data_dir.stat().st_mode & 0o777 == 0o700  # the database in it holds ids
    token = settings.key_file.read_text().strip()
    with database.read() as session:
        stored = session.execute(text("SELECT digest FROM api_keys")).scalar_one()
    assert token.split("_", 2)[2] not in stored


def test_the_receipts_of_certificates_are_not_written_again_by_the_upgrade(trained: Trained) -> None:
    """As seen: of a million requests it wrote all receipts, five millions, while the service stood still."""
    account = trained.account
    sealed = trained.forget(trained.ids[:2])["id"]
    sweep(account)
    owed = trained.forget(trained.ids[5:7])["id"]
    open_ = trained.delete(trained.ids[8:9])["id"]
    later = trained.forget(trained.ids[10:11])["id"]
    sweep(account)
    with account.database.write() as session:
        session.execute(text("UPDATE deletion_requests SET remains_until = due_at WHERE id = :id"), {"id": later})
        session.execute(text("DELETE FROM certificates WHERE request_id = :id"), {"id": owed})
        session.execute(
            text("UPDATE receipts SET request_id = :to WHERE request_id = :id AND subject = 'sample-bytes'"),
            {"id": owed, "to": open_},
        )

    def run(*statements: str) -> Any:
        with account.database.write() as session:
            return [session.execute(text(each)) for each in statements][-1].all()

    def move(to: str) -> None:
        with account.database.engine.connect().execution_options(lethe_write=True) as connection, connection.begin():
            config = migrate._config()
            config.attributes["connection"] = connection
            (command.downgrade if to == "0019" else command.upgrade)(config, to)

    move("0019")
    listed = "SELECT id, request_id FROM receipts"
    if account.database.is_sqlite:
        run(
            "CREATE TABLE touched (id TEXT)",
            "CREATE TRIGGER touch AFTER UPDATE ON receipts BEGIN INSERT INTO touched VALUES (new.id); END",
            listed,
        )
    else:
        run("CREATE TABLE untouched AS SELECT id, xmin::text AS x FROM receipts", listed)
    move("head")
    if account.database.is_sqlite:
        written = {row.id for row in run("SELECT id FROM touched")}
        run("DROP TRIGGER touch", "DROP TABLE touched", listed)
    else:
        changed = "SELECT r.id FROM receipts r JOIN untouched u ON u.id = r.id WHERE u.x <> r.xmin::text"
        written = {row.id for row in run(changed)}
        run("DROP TABLE untouched", listed)
    rows = run("SELECT id, request_id, sealed FROM receipts")
    assert {row.request_id for row in rows if not row.sealed} == {owed, open_, later}
    assert {row.request_id for row in rows if row.sealed} == {sealed}
    assert written == {row.id for row in rows if not row.sealed}
    sweep(account)
    assert account.get("/v1/certificates", request=owed)["items"]
