"""What the OpenAPI document says beside its calls: a text for each tag, examples of bodies, servers, webhooks."""

from __future__ import annotations

from typing import Any

TAGS = {
    "deletion requests": "What people ask: accept, follow, decide. A 202 is a promise that ends in a stated outcome.",
    "cases": "The officer's case: people, drafts, notices, papers, case files, recalls, and the tenant's letters.",
    "jobs": "The work. Every long task is a job; follow it by its event stream. And the workers that run it.",
    "catalog": "Every name that a dataset, a model or a policy may use, with the JSON Schema of its parameters.",
    "datasets": "What models were trained on: a manifest of samples, and where their bytes are.",
    "models": "Classifiers: dataset, architecture, recipe and unlearning policy; and the jobs that you start on them.",
    "versions": "The checkpoints of a model: lineage, upload, download, promotion, aliases.",
    "audits": "What was measured, and what the verdict rests on.",
    "compliance": "The record of processing, and what is overdue.",
    "evidence": "Certificates, receipts and the transparency log: anybody can check them offline.",
    "webhooks": "Receivers of events, what was sent to them, and sending it again.",
    "api keys": "Who may call, and what.",
    "health": "For load balancers and Prometheus; without a key.",
}
DATASET, MODEL = "dst_01k3zq5w8m9x7c2v4b6n8d0f1g", "mdl_01k3zq5w8m9x7c2v4b6n8d0f1h"
EXAMPLES: dict[str, dict[str, Any]] = {
    "DatasetCreate": {"name": "faces-2026", "source": {"name": "upload"}},
    "ModelCreate": {
        "name": "face-classifier",
        "dataset": DATASET,
        "architecture": {"name": "resnet18"},
        "policy": {"method": {"name": "amun"}},
    },
    "VersionCreate": {"digest": "sha256:" + "0f" * 32, "trained_on": "train-split"},
    "SeedBody": {"seed": 1},
    "TrainBody": {"seed": 1},
    "ReferencesBody": {"count": 16},
    "AuditBody": {"version": 2},
    "AliasBody": {"version": 2},
    "DeletionCreate": {"dataset": DATASET, "subjects": ["person-17"], "jurisdiction": "gdpr:DE"},
    "PeopleBody": {"subjects": ["person-17"]},
    "SpanBody": {"subjects": ["person-17"], "like": {"dataset": DATASET, "jurisdiction": "gdpr:DE"}},
    "ConfirmBody": {"at": "2026-11-29"},
    "IdentityBody": {"status": "asked", "until": "2026-12-13"},
    "RemainsBody": {"until": "2027-03-01", "reason": "The reference models are rebuilt in February."},
    "NoticeCreate": {"kind": "acknowledgement", "language": "en"},
    "SentBody": {"how": "post"},
    "PaperCreate": {"kind": "letter", "name": "letter.pdf", "content": "JVBERi0="},
    "CaseFileBody": {"with_papers": False},
    "RecallBody": {"language": "en"},
    "TemplateBody": {"subject": "Your request", "body": "We have received your request."},
    "Rules": {"two_people_on_refusal": True, "keep_months": 24},
    "SignBody": {"form": "plain"},
    "ShardReuse": {"digest": "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"},
    "DatasetClose": {"shards": 12},
    "PreviewBody": {"sample_ids": ["id-1"]},
    "ReasonBody": {"reason": "The person took the request back."},
    "RefuseBody": {"reason": "Needed for a legal claim."},
    "KeyCreate": {"name": "auditor", "scopes": ["read", "audit"], "expires_in_days": 30},
    "KeyRotate": {"overlap_seconds": 86400},
    "WebhookCreate": {"url": "https://example.org/lethe", "events": ["version.*", "request.*"]},
}
"""A body for each schema that is sent, by its name. A test holds them against the schemas."""
EVENT = {
    "type": "version.unlearned",
    "timestamp": "2026-11-29T10:00:00Z",
    "data": {"id": "ver_01k3zq5w8m9x7c2v4b6n8d0f1k"},
}


def describe(document: dict[str, Any]) -> None:
    """Add them."""
    used = [tag for item in document["paths"].values() for call in item.values() for tag in call.get("tags", ())]
    document["tags"] = [{"name": tag, "description": TAGS.get(tag, "")} for tag in dict.fromkeys(used)]
    document["servers"] = [{"url": "/", "description": "this service"}]
    for name, example in EXAMPLES.items():
        if name in document["components"]["schemas"]:
            document["components"]["schemas"][name]["examples"] = [example]
    document["webhooks"] = {
        "event": {
            "post": {
                "summary": "Something has happened",
                "description": "Sent to each webhook that wants the kind of event, signed as Standard Webhooks 1.0.0 "
                "say in `webhook-id`, `webhook-timestamp` and `webhook-signature`. Answer 2xx within seconds; other "
                "answers are tried again for days, and 410 switches the webhook off.",
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Event"}}},
                },
                "responses": {"2XX": {"description": "received"}, "410": {"description": "send no more"}},
            }
        }
    }
    document["components"]["schemas"]["Event"] = {
        "title": "Event",
        "description": "What a webhook receives.",
        "type": "object",
        "required": ["type", "timestamp", "data"],
        "properties": {
            "type": {"type": "string", "description": "the kind of event"},
            "timestamp": {"type": "string", "format": "date-time"},
            "data": {"type": "object", "description": "`id` of what it happened to, and of some kinds more"},
        },
        "examples": [EVENT],
    }
