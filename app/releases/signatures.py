"""Signatures of exported folders (OpenSSF Model Signing): asked for by a client, made by the sweeper, which has the
key."""

from __future__ import annotations

import hashlib
import json
from typing import Any, cast

from sqlalchemy import Row, select
from sqlalchemy.orm import Session

from app import events
from app.blobs.open import Blobs
from app.core import db
from app.core.db import Database
from app.core.errors import Conflict, NotFound
from app.core.tables import Model, ModelSignature, Version
from app.evidence import model_signing
from app.evidence.model_signing import ModelKey
from app.models import versions
from app.releases import export
from app.releases.export import Folder, Form

AT_ONCE, SEEN = 5, 1000
WEIGHTS = "model.safetensors"


def ask(session: Session, blobs: Blobs, model: Model, version: Version, form: Form) -> ModelSignature:
    """Have the folder of this form signed.

    Raises:
        Unprocessable: the form is not one of the model's library.
        Conflict, Gone: the version may not leave the service.
    """
    versions.require_released(session, model, version)
    export.folder(session, blobs, model, version, form)
    now = db.now(session)
    row = session.get(ModelSignature, (version.id, form), with_for_update=True)
    if row is None:
        row = ModelSignature(version_id=version.id, form=form, tenant_id=model.tenant_id, files={}, asked_at=now)
        session.add(row)
    row.asked_at, row.made_at, row.bundle, row.files = now, None, None, {}
    events.record(session, model.tenant_id, "version.signature-asked", version.id, form=form)
    return row


def get(session: Session, version: Version, form: Form) -> ModelSignature:
    """Raises NotFound: nobody asked for it. Conflict: it is not ready."""
    row = session.get(ModelSignature, (version.id, form))
    if row is None:
        raise NotFound("Ask for the signature first: `:sign`.")
    if row.bundle is None:
        raise Conflict(
            "The signature is being made. Ask again.", kind="signature-not-ready", headers={"Retry-After": "1"}
        )
    return row


def sign_due(database: Database, blobs: Blobs, key: ModelKey) -> int:
    """Sign the folders that were asked for; how many. The sweeper's duty. No transaction is open while it reads."""
    with database.read() as session:
        asked = select(ModelSignature.version_id, ModelSignature.form).where(ModelSignature.made_at.is_(None))
        waiting = session.execute(asked.order_by(ModelSignature.asked_at).limit(SEEN)).all()

    def sign(asked: Row[str, str]) -> bool:
        version_id, form = asked
        with database.read() as session:
            version = session.get_one(Version, version_id)
            model = session.get_one(Model, version.model_id)
            folder = export.folder(session, blobs, model, version, cast("Form", form))
        files = small(folder) | {WEIGHTS: _weights(folder, blobs)}
        made = model_signing.bundle(f"{model.id}-v{version.number}-{form}", files, key)
        with database.write() as session:
            row = session.get_one(ModelSignature, (version_id, form), with_for_update=True)
            row.bundle, row.files, row.public_key = json.dumps(made), files, key.public_pem
            row.made_at = db.now(session)
            events.record(session, row.tenant_id, "version.signed", version_id, form=form)
        return True

    return db.one_by_one(waiting, sign, "a folder could not be signed", most=AT_ONCE)


def small(folder: Folder) -> dict[str, str]:
    """SHA-256 of the files beside the weights."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in folder.files.items()}


def _weights(folder: Folder, blobs: Blobs) -> str:
    weights, digest = folder.weights, hashlib.sha256(folder.weights.header)
    for start, stop in weights.spans:
        for piece in blobs.read(weights.digest, start, stop):
            digest.update(piece)
    return digest.hexdigest()


def put_in(session: Session, version: Version, form: Form, folder: Folder) -> None:
    """Add the signature to the folder, if there is one of exactly these files."""
    row = session.get(ModelSignature, (version.id, form))
    if row is None or row.bundle is None:
        return
    signed: dict[str, Any] = dict(row.files)
    signed.pop(WEIGHTS, None)
    if signed == small(folder):
        folder.files[model_signing.FILE] = row.bundle.encode()
