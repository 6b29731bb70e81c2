"""Databases of up to a million requests, and of as many samples, jobs, versions, audits, certificates and events."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import text

from app.core import keys
from app.core.config import Settings
from app.core.db import Database
from app.deletions import tallies
from app.operations import migrate
from app.rules.policy import Policy
from benchmarks.posting import database_url, fill

TENANT = keys.FIRST_TENANT
FIRST = "2020-01-01 00:00:00.000000"  # a request a minute from then on
SAMPLES = 10  # of each dataset; the one of requests has as many more as there are requests
FULFILLED = "n % 100 NOT BETWEEN 1 AND 8"


@contextmanager
def loaded(kind: str, size: int) -> Iterator[tuple[Settings, Database, dict[str, str]]]:
    """A database with `size` requests, and ids of its two datasets and models; one of each is rarely named."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings = Settings(data_dir=folder, database_url=stack.enter_context(database_url(kind)))
        database = Database(settings)
        yield settings, database, load(settings, database, size)
        database.close()


def load(settings: Settings, database: Database, size: int) -> dict[str, str]:
    """Nearly all requests are fulfilled; some of every other status and of a rare dataset and model are among them."""
    migrate.migrate(database)
    keys.bootstrap(database, settings)
    dataset, model = fill(database, SAMPLES, Policy())
    rare_dataset, rare_model = fill(database, SAMPLES, Policy())
    ids = {"dataset": dataset, "model": model, "rare_dataset": rare_dataset, "rare_model": rare_model}
    lite = database.is_sqlite
    with database.engine.connect() as connection:
        # Nobody else is there, and what is written names what is written, so that neither is looked after.
        for faster in _FASTER_SQLITE if lite else _FASTER_POSTGRES:
            raw: Any = connection.connection.driver_connection
            raw.execute(faster)
        for statement in _statements(lite):
            wanted = {name: value for name, value in ids.items() if f":{name}" in statement}
            tenant = {"tenant": TENANT} if ":tenant" in statement else {}
            sized = {"size": size} if ":size" in statement else {}
            connection.execute(text(statement), {**sized, **tenant, **wanted})
        connection.commit()
        connection.invalidate()
    tallies.add_up(database)
    if not lite:
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))
    return ids


_FASTER_SQLITE = ("PRAGMA foreign_keys=OFF", "PRAGMA synchronous=OFF", "PRAGMA cache_size=-500000")
_FASTER_POSTGRES = (
    "SET session_replication_role = replica",
    "ALTER TABLE deletion_requests ENABLE ALWAYS TRIGGER tally_deletion_requests_insert",
    "ALTER TABLE audit_reports ENABLE ALWAYS TRIGGER tally_audit_reports_insert",
    "SET synchronous_commit = off",
)


def minute(number: int) -> datetime:
    """When request `number` was received."""
    return datetime.fromisoformat(FIRST) + timedelta(minutes=number)


def _statements(lite: bool) -> Iterator[str]:
    series = (
        "WITH RECURSIVE s(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM s WHERE n < :size - 1)"
        if lite
        else "WITH s AS (SELECT n FROM generate_series(0, :size - 1) AS n)"
    )
    blob = "x'00000000'" if lite else "'\\x00000000'::bytea"

    def name(noun: str) -> str:
        return f"printf('{noun}_%026d', n)" if lite else f"'{noun}_' || lpad(n::text, 26, '0')"

    def digest(first: int) -> str:
        return f"'sha256:{first}' || printf('%063d', n)" if lite else f"'sha256:{first}' || lpad(n::text, 63, '0')"

    def at(later: str = "0") -> str:
        if lite:
            return f"strftime('%Y-%m-%d %H:%M:%f', '{FIRST}', (n + {later}) || ' minutes') || '000'"
        return f"timestamp '{FIRST}' + (n + {later}) * interval '1 minute'"

    def into(table: str, columns: dict[str, str], where: str = "") -> str:
        names, values = ", ".join(columns), ", ".join(columns.values())
        return f"INSERT INTO {table} ({names}) {series} SELECT {values} FROM s {where and 'WHERE ' + where}"

    answered = at("(n % 997) * 7919 % 60000")  # up to 42 days later, where the law has 31
    dataset = "CASE WHEN n % 200 = 7 THEN :rare_dataset ELSE :dataset END"
    model = "CASE WHEN n % 200 = 7 THEN :rare_model ELSE :model END"
    states = {4: "pending", 5: "batched", 6: "attention", 8: "published"}
    yield into(
        "jobs",
        {
            "id": name("job"),
            "tenant_id": ":tenant",
            "kind": "CASE WHEN n % 200 = 9 THEN 'train' ELSE 'unlearn' END",
            "dataset_id": dataset,
            "model_id": model,
            "lane": "'x'",
            "params": "'{}'",
            "seed": "0",
            "state": "CASE WHEN n % 200 = 11 THEN 'failed' ELSE 'succeeded' END",
            "fraction": "0",
            "attempts": "1",
            "fence": "1",
            "cancel_requested": "false",
            "created_at": at(),
            "available_at": at(),
            "started_at": at(),
            "finished_at": at("n % 50"),
        },
    )
    yield into(
        "deletion_requests",
        {
            "id": name("del"),
            "tenant_id": ":tenant",
            "dataset_id": dataset,
            "decision": "CASE n % 100 WHEN 1 THEN 'refused' WHEN 2 THEN 'cancelled' WHEN 3 THEN 'held' "
            "ELSE 'accepted' END",
            "jurisdiction": "CASE WHEN n % 20 < 13 THEN 'gdpr' WHEN n % 20 < 15 THEN 'uk-gdpr' "
            "WHEN n % 20 < 18 THEN 'ccpa' ELSE 'gdpr:DE' END",
            "ground": "CASE WHEN n % 5 = 0 THEN NULL WHEN n % 20 IN (16, 17) THEN '1798.105' "
            "ELSE '17(1)(' || substr('abcdef', n % 6 + 1, 1) || ')' END",
            "refusal_ground": "CASE WHEN n % 100 = 1 THEN '12(5)' END",
            "basis": "'b'",
            "sample_count": "1",
            "positions": blob,
            "received_at": at(),
            "due_at": at("45000"),
            "decided_at": f"CASE WHEN n % 100 IN (1, 2) THEN {at('5000')} END",
            "fulfilled_at": f"CASE WHEN {FULFILLED} THEN {answered} END",
            "refused_count": "CASE WHEN n % 1000 = 10 THEN 1 ELSE 0 END",
            "by_subject": "false",
            "rule": "'r'",
        },
    )
    yield into(
        "outcomes",
        {
            "request_id": name("del"),
            "model_id": model,
            "state": f"CASE n % 100 {' '.join(f'WHEN {n} THEN {s!r}' for n, s in states.items())} ELSE 'purged' END",
            "job_id": name("job"),
            "version": f"CASE WHEN {FULFILLED} THEN n + 2 END",
        },
    )
    yield into(
        "versions",
        {
            "id": name("ver"),
            "tenant_id": ":tenant",
            "model_id": model,
            "number": "n + 2",
            "parent": "n + 1",
            "origin": "'unlearned'",
            "state": "'purged'",
            "digest": digest(1),
            "size": "1000000",
            "trained_on": blob,
            "trained_count": "1000",
            "class_counts": "'[]'",
            "metrics": '\'{"ft_auc": 0.51, "accuracy_test": 0.93}\'',
            "job_id": name("job"),
            "created_at": at("60"),
        },
        FULFILLED,
    )
    yield into(
        "audit_reports",
        {
            "id": name("rep"),
            "tenant_id": ":tenant",
            "model_id": model,
            "job_id": name("job"),
            "version": "n + 2",
            "verdict": "CASE n % 40 WHEN 11 THEN 'fail' WHEN 12 THEN 'inconclusive' ELSE 'pass' END",
            "report": "'{}'",
            "created_at": at("60"),
        },
        FULFILLED,
    )
    receipt = {"request_id": name("del"), "model_id": model, "detail": "'text'", "sealed": "true"}
    done = {"due_at": at("40000"), "done_at": at("40000")}
    yield into("receipts", {"id": name("rcp"), **receipt, "subject": "'samples'", "done_at": at("70")}, FULFILLED)
    late = {"due_at": at("90000"), "done_at": "NULL"}  # some of what the newest left is still there
    for noun, times, some in (
        ("rcq", done, "n % 50 <> 9 OR n < :size - 20000"),
        ("rcq", late, "NOT (n % 50 <> 9 OR n < :size - 20000)"),
    ):
        columns = {"id": name(noun), **receipt, "subject": "'superseded-checkpoint'", **times}
        yield into("receipts", columns, f"{FULFILLED} AND ({some})")
    yield into(
        "certificates",
        {
            "digest": digest(2),
            "tenant_id": ":tenant",
            "request_id": name("del"),
            "receipts_done": "2",
            "envelope": "'{}'",
            "issued_at": at("40000"),
        },
        FULFILLED,
    )
    for offset, kind in enumerate(("request.accepted", "request.fulfilled")):
        yield into(
            "events",
            {
                "number": f"2 * n + {1 + offset}",
                "tenant_id": ":tenant",
                "kind": f"'{kind}'",
                "object_id": name("del"),
                "data": "'{}'",
                "at": at(),
                "leaf": f"2 * n + {offset}",
            },
        )
    yield (
        "INSERT INTO log_heads (tenant_id, size, root, note, key_id, signed_at) VALUES "
        f"(:tenant, 2 * :size, {blob}, 'bench' || '\n' || (2 * :size), 'none', '{FIRST}')"
    ).replace("'bench' || '\n' ||", "'bench' || char(10) ||" if lite else "'bench' || chr(10) ||")
    yield into(  # what each fulfilled request had at its end
        "jobs",
        {
            "id": name("joc"),
            "tenant_id": ":tenant",
            "kind": "'purge'",
            "dataset_id": dataset,
            "request_id": name("del"),
            "lane": "'x'",
            "params": "'{}'",
            "seed": "0",
            "state": "'succeeded'",
            "fraction": "1",
            "attempts": "1",
            "fence": "1",
            "cancel_requested": "false",
            "created_at": at("65"),
            "available_at": at("65"),
        },
        FULFILLED,
    )
    yield into("job_events", {"job_id": name("job"), "kind": "'state'", "data": "'{}'", "at": at()})
    yield into("case_details", {"request_id": name("del"), "tenant_id": ":tenant", "reference": name("ticket")})
    yield into(
        "notices",
        {
            "id": name("not"),
            "tenant_id": ":tenant",
            "request_id": name("del"),
            "kind": "'completion'",
            "language": "'en'",
            "subject": "'s'",
            "body": "'b'",
            "created_at": at(),
            "sent_at": f"CASE WHEN n % 3 = 0 THEN NULL ELSE {at()} END",
        },
        "n % 10 = 0",
    )
    yield (
        "INSERT INTO webhooks (id, tenant_id, url, secret, events, created_at) VALUES "
        f"('whk_{0:026d}', :tenant, 'https://example.org/', 's', '[]', '{FIRST}')"
    )
    yield into(
        "deliveries",
        {
            "id": name("msg"),
            "webhook_id": f"'whk_{0:026d}'",
            "kind": "'request.fulfilled'",
            "body": "'{}'",
            "state": "'delivered'",
            "attempts": "1",
            "created_at": at(),
        },
    )
    yield into(
        "samples",
        {
            "dataset_id": ":dataset",
            "position": f"n + {SAMPLES}",
            "sample_id": name("more"),
            "subject": "printf('person-%07d', n / 2)" if lite else "'person-' || lpad((n / 2)::text, 7, '0')",
            "label": "n % 10",
            "holdout": "false",
        },
    )
    yield (f"UPDATE datasets SET sample_count = {SAMPLES} + :size, train_count = {SAMPLES} + :size WHERE id = :dataset")
