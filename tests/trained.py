"""A small trained model on the digits and a pool of references: made once per database, copied per test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fastapi.testclient import TestClient

from app.core import keys
from app.core.config import Settings
from app.core.db import Database
from app.jobs import outbox
from app.main import create_app
from app.operations import migrate
from tests.support import Account, Document


@dataclass
class Trained:
    """An account whose model has version 1 and a pool of four references."""

    account: Account
    dataset: str
    model: str
    ids: list[str]  # of the train split, in order

    @property
    def where(self) -> str:
        return f"/v1/models/{self.model}"

    def delete(self, ids: list[str], status: int = 202, **fields: object) -> Document:
        return self.account.delete(self.dataset, ids, status, **fields)

    def request(self, made: Document) -> Document:
        return self.account.get(f"/v1/deletion-requests/{made['id']}")

    def forget(self, ids: list[str], **fields: object) -> Document:
        """Delete and work until nothing is left to do; the request as it then is."""
        made = self.delete(ids, **fields)
        self.account.work()
        return self.request(made)


@contextmanager
def open_account(settings: Settings) -> Iterator[Account]:
    database = Database(settings)
    migrate.migrate(database)
    keys.bootstrap(database, settings)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        client.headers["Authorization"] = f"Bearer {settings.key_file.read_text().strip()}"
        account = Account(settings, database, client)
        yield account
        account.close()
    database.close()


class Template(NamedTuple):
    """A prepared account that nothing runs on: to copy."""

    folder: str
    url: str  # of its PostgreSQL database; empty: SQLite, in the folder
    dataset: str
    model: str
    ids: list[str]


def make(folder: Path, url: str) -> Template:
    with open_account(Settings(data_dir=folder, database_url=url)) as account:
        dataset = account.digits()["id"]
        model = account.model(dataset)["id"]
        account.post(f"/v1/models/{model}:references", {"count": 4})
        account.work()
        outbox.relay_hints(account.database, outbox.discard)  # a copy may be used when they would be late
        return Template(str(folder), url, dataset, model, account.training_ids(dataset))
