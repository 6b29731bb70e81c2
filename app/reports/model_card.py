"""The model card of a version, as Markdown with YAML front matter."""

from __future__ import annotations

import yaml
from sqlalchemy.orm import Session

from app.core.tables import Dataset, Model, Version
from app.reports import audit_rows


def model_card(session: Session, model: Model, version: Version) -> str:
    """What the checkpoint is, where it comes from, what its audit said."""
    dataset = session.get_one(Dataset, model.dataset_id)
    audit = audit_rows.publication(session, version)
    front = {
        "library_name": "lethe",
        "tags": ["image-classification", "machine-unlearning"],
        "model": model.id,
        "version": version.number,
        "digest": version.digest,
        "architecture": {"name": model.architecture, "params": model.architecture_params},
        "input": {"shape": dataset.shape, "layout": "height, width, channels", "range": [0, 1]},
        "classes": dataset.class_count,
        "trained_samples": version.trained_count,
        "metrics": {k: v for k, v in version.metrics.items() if v is not None},
        "parent": version.parent,
        "origin": version.origin,
        "verdict": audit.verdict if audit else None,
    }
    reason = audit.report["judgement"]["reason"] if audit else "no audit was run on this version"
    return "\n".join(
        [
            "---",
            yaml.safe_dump(front, sort_keys=False).rstrip(),
            "---",
            "",
            f"# {_plain(model.name)}, version {version.number}",
            "",
            f"A `{model.architecture}` image classifier with {dataset.class_count} classes, {version.origin} by Lethe"
            + (f" from version {version.parent}." if version.parent else "."),
            "",
            "## Audit",
            "",
            f"**{audit.verdict if audit else 'none'}**: {reason}",
            "",
            "## Limits",
            "",
            "The audit measures membership inference by one attack; it does not prove that nothing was retained.",
            "",
        ]
    )


def _plain(name: str) -> str:
    """A model's name as Markdown text, without markup of its own."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]()<>#+-!|" else c for c in name)
