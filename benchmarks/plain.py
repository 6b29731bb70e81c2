"""What ours is measured against: the same calls as a FastAPI tutorial would write them.

Sync endpoints, a pydantic body, an ORM session for each request, a row for the request and a row for each id, a commit.
No authentication, no checks, no jobs, no audit events. The same server, database, pool and durability as ours.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict
from sqlalchemy import ForeignKey, create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, sessionmaker

URL = os.environ["PLAIN_DATABASE_URL"]
engine = create_engine(URL, pool_size=10, max_overflow=30)
sessions = sessionmaker(engine, expire_on_commit=False)

if URL.startswith("sqlite"):

    @event.listens_for(engine, "connect")
    def _durable(connection, _record) -> None:  # type: ignore[no-untyped-def]
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA busy_timeout=30000")


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    request_id: Mapped[int] = mapped_column(ForeignKey("requests.id"), index=True)
    sample_id: Mapped[str]


class Asked(Base):
    __tablename__ = "requests"
    id: Mapped[int] = mapped_column(primary_key=True)
    dataset: Mapped[str]
    status: Mapped[str]
    received_at: Mapped[datetime]
    items: Mapped[list[Item]] = relationship()


class Body(BaseModel):
    dataset: str
    sample_ids: list[str]


class Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    id: int
    dataset: str
    status: str
    received_at: datetime


def _session() -> Iterator[Session]:
    with sessions() as session:
        yield session


Db = Annotated[Session, Depends(_session)]
app = FastAPI()
Base.metadata.create_all(engine)


@app.post("/requests", status_code=202)
def create(body: Body, session: Db) -> Out:
    asked = Asked(dataset=body.dataset, status="accepted", received_at=datetime.now(UTC).replace(tzinfo=None))
    session.add(asked)
    session.flush()
    for sample_id in body.sample_ids:
        session.add(Item(request_id=asked.id, sample_id=sample_id))
    session.commit()
    return Out.model_validate(asked)


@app.get("/requests/{number}")
def read(number: int, session: Db) -> Out:
    found = session.get(Asked, number)
    if found is None:
        raise HTTPException(404)
    return Out.model_validate(found)
