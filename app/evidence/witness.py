"""Witnesses of the log: others who countersign its heads, so that two histories cannot be shown to two people.

A witness is named by its verifier key and an address, `NAME+HASH+KEY@URL` (C2SP signed-note). The service sends it each
new head with the proof from the last one that it has seen (C2SP tlog-witness), and keeps its line under the head
(C2SP tlog-cosignature) only if that line is by the key that was named, and over the service's own head.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core import db
from app.core.db import Database
from app.core.tables import Cosignature, LogHead
from app.evidence import transparency_log
from app.evidence.transparency_log import Head

if TYPE_CHECKING:
    import httpx

log = logging.getLogger("lethe.witness")

COSIGNATURE = b"\x04"
SECONDS = 5.0
MOST_REPLY = 2**16  # bytes
DASH = "\N{EM DASH}"


class WitnessError(Exception):
    """A witness did not countersign; says why."""


@dataclass(frozen=True)
class Witness:
    """Who countersigns, and where."""

    name: str
    key: Ed25519PublicKey
    key_id: bytes
    url: str

    @classmethod
    def parse(cls, text: str) -> Witness:
        """Raises ValueError: it is not `NAME+HASH+KEY@URL` of an Ed25519 cosigner."""
        verifier, _, url = text.partition("@")
        name, hashed, encoded = ([*verifier.split("+", 2), "", ""])[:3]
        raw = base64.b64decode(encoded, validate=True)
        if raw[:1] != COSIGNATURE or len(raw) != 33 or not url.startswith(("http://", "https://")):
            raise ValueError("a witness is NAME+HASH+KEY@URL, with a key for cosignatures (type 4)")
        key_id = hashlib.sha256(name.encode() + b"\n" + raw).digest()[:4]
        if hashed != key_id.hex():
            raise ValueError("the hash of a witness's key is not that of its name and key")
        return cls(name, Ed25519PublicKey.from_public_bytes(raw[1:]), key_id, url.rstrip("/"))

    def line_over(self, note: str, reply: str) -> str:
        """Its line in the reply, if it is its own cosignature over this head.

        Raises:
            WitnessError: there is none: it is by another key, or over another tree.
        """
        text = note.rpartition("\n\n")[0] + "\n"
        for line in reply.split("\n"):
            dash, _, rest = line.partition(" ")
            name, _, encoded = rest.partition(" ")
            try:
                raw = base64.b64decode(encoded, validate=True)
            except ValueError:
                continue
            if dash != DASH or name != self.name or raw[:4] != self.key_id or len(raw) != 76:
                continue
            stamp = int.from_bytes(raw[4:12], "big")
            try:
                self.key.verify(raw[12:], f"cosignature/v1\ntime {stamp}\n{text}".encode())
            except InvalidSignature:
                raise WitnessError("its signature is not over this head: it signs another tree") from None
            return f"{line}\n"
        raise WitnessError("its reply has no line by the key that was named")


def cosign(database: Database, witnesses: list[Witness], http: httpx.Client) -> int:
    """Have every witness countersign the newest heads; how many did. A witness that fails is asked again in a later
    round: one that says nothing costs one wait, not one for each tenant."""
    import httpx  # only the sweeper asks witnesses; the API reads what they said

    with database.read() as session:
        tenants = list(session.scalars(select(LogHead.tenant_id).where(LogHead.size > 0)))
    done = 0
    for witness in witnesses:
        for tenant in tenants:
            try:
                done += _cosign(database, tenant, witness, http)
            except (WitnessError, httpx.HTTPError) as error:
                log.warning("witness %s did not countersign: %s", witness.name, str(error) or type(error).__name__)
                if not isinstance(error, WitnessError):  # the next tree would fare no better
                    break
    return done


def _cosign(database: Database, tenant: str, witness: Witness, http: httpx.Client) -> bool:
    with database.read() as session:
        head = transparency_log.head(session, tenant)
        before = session.get(Cosignature, (tenant, witness.name))
        seen = before.size if before else 0
        if head is None or seen == head.size:
            return False
        proof = _proof(session, tenant, seen, head)
    status, said = _ask(http, witness, seen, proof, head)
    if status == 409:  # it has seen another size, which it names
        known = said.strip()
        if not known.isdecimal() or int(known) > head.size:
            raise WitnessError("it has seen a larger tree of this log: there may be two histories")
        with database.read() as session:
            proof = _proof(session, tenant, int(known), head)
        status, said = _ask(http, witness, int(known), proof, head)
    if status != 200:
        raise WitnessError(f"it answered {status}")
    line = witness.line_over(head.note, said)
    with database.write() as session:
        session.merge(
            Cosignature(
                tenant_id=tenant, witness=witness.name, size=head.size, note=head.note + line, at=db.now(session)
            )
        )
    return True


def _proof(session: Session, tenant: str, seen: int, head: Head) -> list[bytes]:
    return transparency_log.prove_consistency(session, tenant, seen, head.size) if 0 < seen < head.size else []


def _ask(http: httpx.Client, witness: Witness, seen: int, proof: list[bytes], head: Head) -> tuple[int, str]:
    """Status and text of its reply.

    Raises:
        httpx.HTTPError: it did not answer, or not within the time and the length of such a reply.
    """
    import httpx

    lines = [f"old {seen}", *(base64.b64encode(value).decode() for value in proof)]
    body = "\n".join(lines) + "\n\n" + head.note
    until, said = time.monotonic() + SECONDS, bytearray()
    url, plain = f"{witness.url}/add-checkpoint", {"Accept-Encoding": "identity"}  # what is packed has no bound
    with http.stream("POST", url, content=body.encode(), headers=plain, timeout=SECONDS) as reply:
        for piece in reply.iter_raw():  # the timeout is for each piece
            said += piece
            if len(said) > MOST_REPLY or time.monotonic() > until:
                raise httpx.ReadTimeout("its reply does not end")
    return reply.status_code, said.decode(errors="replace")


def cosigned(session: Session, tenant_id: str) -> str | None:
    """The newest head that witnesses have countersigned, with a line of each that signed this size."""
    rows = session.scalars(
        select(Cosignature)
        .where(Cosignature.tenant_id == tenant_id)
        .order_by(Cosignature.size.desc(), Cosignature.witness)
    ).all()
    if not rows:
        return None
    same = [row for row in rows if row.size == rows[0].size and _own(row.note) == _own(rows[0].note)]
    return _own(rows[0].note) + "".join(row.note.split("\n")[-2] + "\n" for row in same)


def _own(note: str) -> str:
    """The head with the service's own signature alone."""
    return note.removesuffix("\n").rpartition("\n")[0] + "\n"
