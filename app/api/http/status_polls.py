"""Status polls: documents of jobs and deletion requests for all simultaneous callers, read in one transaction.

The reply to most polls is that nothing has changed. One small statement answers all of these: it reads the facts that
documents are made from. Only documents whose facts differ from those behind the ETag are made.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from sqlalchemy.orm import Session

from app.api.http.conditional import etag_of, matches
from app.api.http.replies import Reply
from app.core import keys
from app.core.db import Database
from app.core.errors import AppError, NotFound
from app.core.keys import Caller

ObjectName = tuple[str, str]
"""Tenant and object."""
MOST_KNOWN = 20_000


@dataclass(frozen=True)
class Noun:
    """A kind of document that can be polled. `facts`: by name, all that its text depends on. `read`: the documents."""

    word: str
    facts: Callable[[Session, Collection[ObjectName]], Mapping[ObjectName, tuple[Any, ...]]]
    read: Callable[[Session, Collection[ObjectName]], Mapping[ObjectName, BaseModel]]


@dataclass(frozen=True)
class Poll:
    """Who asks for what, and which ETags they have."""

    token: str
    noun: Noun
    id: str
    has: str | None


class Polls:
    """Answers groups of polls."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[
            ObjectName, tuple[tuple[Any, ...], str]
        ] = {}  # facts as last read and their ETag; oldest first

    def __call__(self, group: list[Poll]) -> list[Reply | Exception]:
        found: dict[int, Reply | Exception] = {}
        asked: dict[Noun, dict[ObjectName, list[int]]] = {}
        with self._database.read() as session:
            callers = keys.authenticate_many(session, {poll.token for poll in group})
            for number, poll in enumerate(group):
                try:
                    who = _allowed(callers[poll.token])
                except AppError as error:
                    found[number] = error
                else:
                    asked.setdefault(poll.noun, {}).setdefault((who.tenant_id, poll.id), []).append(number)
            for noun, askers in asked.items():
                self._answer(session, noun, askers, group, found)
        return [found[number] for number in range(len(group))]

    def _answer(
        self,
        session: Session,
        noun: Noun,
        askers: Mapping[ObjectName, list[int]],
        group: list[Poll],
        found: dict[int, Reply | Exception],
    ) -> None:
        facts = noun.facts(session, askers)
        changed: dict[ObjectName, list[int]] = {}
        for name, numbers in askers.items():
            before, etag = self._known.get(name, ((), ""))
            same = name in facts and before == facts[name]
            for number in numbers:
                if same and matches(group[number].has, etag):
                    found[number] = Reply(304, "", {"ETag": etag}, name[0])
                else:
                    changed.setdefault(name, []).append(number)
        if not changed:
            return
        shown = noun.read(session, changed)
        still = noun.facts(session, changed)  # a change between the two statements must not be taken for none
        for name, numbers in changed.items():
            reply: Reply | Exception = NotFound(f"There is no such {noun.word}.")
            if name in shown:
                text = shown[name].model_dump_json()
                etag = etag_of(text.encode())
                reply = Reply(200, text, {"ETag": etag}, name[0])
                if still.get(name) == facts.get(name):
                    self._keep(name, facts[name], etag)
            found.update(dict.fromkeys(numbers, reply))

    def _keep(self, name: ObjectName, facts: tuple[Any, ...], etag: str) -> None:
        self._known.pop(name, None)
        self._known[name] = (facts, etag)
        if len(self._known) > MOST_KNOWN:
            self._known.pop(next(iter(self._known)))


def _allowed(who: Caller | None) -> Caller:
    """The caller; AppError where nobody, or one who may not read, has asked."""
    if who is None:
        raise keys.refusal()
    keys.require(who, "read")
    return who
