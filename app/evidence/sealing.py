"""Evidence from the database: the signing key's public life, the commitment to a request's ids, its certificates."""

from __future__ import annotations

import hashlib
import json
import logging

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core import db
from app.core.config import Settings
from app.core.db import Database
from app.core.positions import Positions, unpack
from app.core.tables import (
    CertificateRow,
    Commitment,
    Dataset,
    DeletionRequest,
    OutcomeRow,
    Receipt,
    Sample,
    SigningKeyRow,
    Tenant,
)
from app.evidence import certificate, legal, signing, transparency_log
from app.evidence.certificate import CertificateFacts
from app.evidence.signing import KnownKey, SigningKey

TAG_BYTES = 16
log = logging.getLogger("lethe.evidence")

AT_ONCE, SEEN = 20, 1000
NOTHING = f"sha256:{hashlib.sha256().hexdigest()}"  # the content of a dataset that a request carried, once it is erased


def open_key(database: Database, settings: Settings) -> SigningKey:
    """The service's signing key, its public half known from now on.

    Raises:
        StartError: it is no Ed25519 key, or was replaced by another and may not sign any more.
    """
    given = settings.signing_key.get_secret_value()
    if given and (settings.data_dir / signing.KEY_FILE).exists():
        log.warning("%s lies in the data folder, which API and workers read: remove it", signing.KEY_FILE)
    key = signing.load(given, settings.data_dir)
    with database.write() as session:
        # One row of any kind as the lock: keys change once in years.
        session.execute(select(Tenant.id).order_by(Tenant.id).limit(1).with_for_update())
        for known in signing.rotate(known_keys(session), key, db.now(session)):
            session.merge(SigningKeyRow(**vars(known)))
    return key


def known_keys(session: Session) -> list[KnownKey]:
    rows = session.scalars(select(SigningKeyRow).order_by(SigningKeyRow.not_before))
    return [KnownKey(row.id, row.public_pem, row.not_before, row.not_after) for row in rows]


# -- the commitment to the ids ---------------------------------------------------------------------


def commit_ids(session: Session, request: DeletionRequest) -> None:
    """Keep salted tags of the request's ids, while the ids are still there. Once; harmless to repeat."""
    if session.get(Commitment, request.id) is not None:
        return
    if (before := _erased_before(session, request)) is not None:
        session.add(Commitment(request_id=request.id, salt=before.salt, tags=before.tags))
        return
    ids = _ids(session, request.dataset_id, unpack(request.positions))
    salt = certificate.new_salt()
    tags = b"".join(certificate.id_tags(salt, ids))
    session.add(Commitment(request_id=request.id, salt=salt, tags=tags))


def _erased_before(session: Session, request: DeletionRequest) -> Commitment | None:
    """Of a complaint about an erasure: the ids are gone, so their tags are what they were."""
    if request.complaint_about is None:
        return None
    earlier = session.get_one(DeletionRequest, request.complaint_about)
    same = earlier.fulfilled_at is not None and earlier.positions == request.positions
    return session.get(Commitment, earlier.id) if same else None


def leave_out(session: Session, request: DeletionRequest, positions: Positions) -> None:
    """Samples that the request has no longer: their tags go, where it has any yet."""
    row = session.get(Commitment, request.id, with_for_update=True)
    if row is None or row.salt is None:
        return
    left = set(certificate.id_tags(row.salt, _ids(session, request.dataset_id, positions)))
    tags = (row.tags[start : start + TAG_BYTES] for start in range(0, len(row.tags), TAG_BYTES))
    row.tags = b"".join(tag for tag in tags if tag not in left)


def _ids(session: Session, dataset_id: str, positions: Positions) -> list[str]:
    wanted, ids = positions.tolist(), list[str]()
    for start in range(0, len(wanted), 10_000):
        part = Sample.position.in_(wanted[start : start + 10_000])
        ids += session.scalars(select(Sample.sample_id).where(Sample.dataset_id == dataset_id, part))
    return ids


def shred(session: Session, request: DeletionRequest) -> bool:
    """Delete the salt: from now on nobody can tell which ids the tags stand for. False: there is none."""
    row = session.get(Commitment, request.id, with_for_update=True)
    if row is None or row.salt is None:
        return False
    row.salt, row.deleted_at = None, db.now(session)
    return True


# -- sealing ---------------------------------------------------------------------------------------


def seal_due(database: Database, key: SigningKey, log_name: str) -> int:
    """Seal fulfilled requests of which no certificate has all receipts with their dates as they are; how many.

    One that cannot be sealed keeps none of the others from it.
    """
    with database.read() as session:
        due = (
            select(Receipt.request_id)
            .join(DeletionRequest, DeletionRequest.id == Receipt.request_id)
            .where(~Receipt.sealed, DeletionRequest.fulfilled_at.is_not(None))
            .distinct()
        )
        request_ids = list(session.scalars(due.order_by(Receipt.request_id).limit(SEEN)))

    def seal(request_id: str) -> bool:
        with database.write() as session:
            return _seal(session, request_id, key, log_name)

    return db.one_by_one(request_ids, seal, "a request could not be sealed", most=AT_ONCE)


def is_behind(session: Session, request: DeletionRequest) -> bool:
    """Whether the request is fulfilled, and its newest certificate does not have it as it is."""
    unsealed = select(Receipt.id).where(Receipt.request_id == request.id, ~Receipt.sealed)
    return request.fulfilled_at is not None and session.scalars(unsealed.limit(1)).first() is not None


def _seal(session: Session, request_id: str, key: SigningKey, log_name: str) -> bool:
    request = session.get_one(DeletionRequest, request_id, with_for_update=True)
    mine = select(Receipt).where(Receipt.request_id == request.id).order_by(Receipt.id)
    receipts = session.scalars(mine.with_for_update()).all()  # nobody gives one another date meanwhile
    told, earlier = certificate.receipt_facts(receipts), latest(session, request_id)
    for receipt in receipts:
        receipt.sealed = True
    if earlier is not None and earlier.revoked_at is not None:
        return False  # its controller does not stand behind it: a date that passes does not overrule that
    if earlier is not None and certificate.has_receipts(certificate.opened(earlier.envelope), told):
        return False  # another sweeper was faster, or a date is what it was
    # A model that had no version when its job ran learned nothing, and has nothing to show.
    shown = (OutcomeRow.request_id == request.id, OutcomeRow.version.is_not(None))
    outcomes = select(OutcomeRow).where(*shown).order_by(OutcomeRow.model_id)
    commitment = session.get(Commitment, request.id)
    tags = commitment.tags if commitment else b""
    dataset = session.get_one(Dataset, request.dataset_id)
    now = db.now(session)
    facts = CertificateFacts(
        issued_at=now,
        request=legal.of(session, request),
        dataset=request.dataset_id,
        dataset_digest=NOTHING if dataset.state == "erased" else dataset.images,
        tags=tuple(tags[start : start + TAG_BYTES] for start in range(0, len(tags), TAG_BYTES)),
        models=tuple(certificate.model_facts(session, row) for row in session.scalars(outcomes).all()),
        receipts=told,
        supersedes=earlier.digest if earlier else None,
    )
    sealed = certificate.seal(session, request.tenant_id, facts, key, log_name)
    session.add(
        CertificateRow(
            digest=sealed.digest,
            tenant_id=request.tenant_id,
            request_id=request.id,
            supersedes=facts.supersedes,
            receipts_done=sum(receipt.done_at is not None for receipt in receipts),
            envelope=json.dumps(sealed.envelope),
            issued_at=now,
        )
    )
    return True


def latest(session: Session, request_id: str) -> CertificateRow | None:
    query = select(CertificateRow).where(CertificateRow.request_id == request_id)
    return session.scalars(query.order_by(CertificateRow.issued_at.desc(), CertificateRow.receipts_done.desc())).first()


def sequence_waiting(database: Database, key: SigningKey, log_name: str) -> int:
    """Give every committed event its leaf and sign the heads; how many tenants had any."""
    with database.read() as session:
        tenants = transparency_log.waiting(session)

    def sequence(tenant_id: str) -> bool:
        with database.write() as session:
            transparency_log.sequence(session, tenant_id, key, log_name)
        return True

    return db.one_by_one(tenants, sequence, "the log of a tenant could not be signed")
