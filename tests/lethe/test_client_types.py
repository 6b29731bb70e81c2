"""The client's documents and namespaces, held to the OpenAPI document."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints, is_typeddict

import httpx
import pytest

from app.core.config import Settings
from app.main import create_app
from lethe import Client, LetheError, types

NAMES = {
    "Choice": "Choice",
    "Dataset": "DatasetOut",
    "Sample": "SampleOut",
    "Shard": "ShardOut",
    "ClassCount": "ClassCount",
    "SizeCount": "SizeCount",
    "DuplicateCount": "DuplicateCount",
    "Conversion": "Conversion",
    "IngestReport": "IngestReport",
    "Picture": "PictureOut",
    "DatasetErasable": "DatasetErasable",
    "Model": "ModelOut",
    "Version": "VersionOut",
    "Audit": "AuditOut",
    "Alias": "AliasOut",
    "Outcome": "OutcomeOut",
    "Receipt": "ReceiptOut",
    "ReceiptListed": "ReceiptListed",
    "DeletionRequest": "DeletionOut",
    "Preview": "DeletionPreview",
    "Job": "JobOut",
    "Escalation": "EscalationOut",
    "Key": "KeyOut",
    "Worker": "WorkerOut",
    "KeyMade": "KeyMade",
    "Webhook": "WebhookOut",
    "WebhookMade": "WebhookMade",
    "Delivery": "DeliveryOut",
    "RegisterEntry": "RegisterEntry",
    "Summary": "Summary",
    "Certificate": "CertificateOut",
    "EnvelopeSignature": "EnvelopeSignature",
    "Envelope": "Envelope",
    "LogKey": "LogKey",
    "LogKeys": "LogKeys",
    "Coin": "CoinOut",
    "Pool": "PoolOut",
    "AuditOffer": "AuditOffer",
    "AuditPlan": "AuditPlan",
    "Identity": "IdentityOut",
    "Proposal": "ProposalOut",
    "Remain": "RemainOut",
    "Refusal": "RefusalOut",
    "HistoryEntry": "HistoryEntry",
    "CertificateStatus": "StatusOut",
    "Notice": "NoticeOut",
    "Template": "TemplateOut",
    "FileCheck": "CheckOut",
    "FileReport": "VerifyOut",
    "Paper": "PaperOut",
    "Span": "SpanOut",
    "Recall": "RecallOut",
    "Rules": "Rules",
    "Figures": "Figures",
}
NOT_IN_JSON = {"Progress", "ImportLine"}  # data of an event; a line of NDJSON


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return create_app(Settings(data_dir=tmp_path_factory.mktemp("data"))).openapi()


def test_every_document_of_the_client_is_one_of_the_api() -> None:
    ours = {name for name, found in vars(types).items() if is_typeddict(found)}
    assert ours == NAMES.keys() | NOT_IN_JSON


@pytest.mark.parametrize("name", NAMES)
def test_a_document_has_the_members_of_its_schema(name: str, document: dict[str, Any]) -> None:
    schema = document["components"]["schemas"][NAMES[name]]
    hints = get_type_hints(getattr(types, name))
    assert hints.keys() == schema["properties"].keys()
    for member, hint in hints.items():
        assert _said(hint) == _shown(schema["properties"][member], document), member


def _said(hint: Any) -> set[Any]:
    """Kinds of JSON values, and the words of an enumeration, that a hint allows."""
    if get_origin(hint) is Literal:
        return set(get_args(hint))
    if get_origin(hint) in (list, dict):
        return {"array" if get_origin(hint) is list else "object"}
    if get_args(hint):
        return set().union(*(_said(part) for part in get_args(hint)))
    if is_typeddict(hint):
        return {"object"}
    return {{str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}[hint]}


def _shown(schema: dict[str, Any], document: dict[str, Any]) -> set[Any]:
    if "$ref" in schema:
        return _shown(document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], document)
    if parts := schema.get("anyOf") or schema.get("oneOf"):
        return set().union(*(_shown(part, document) for part in parts))
    return set(schema.get("enum", [schema.get("const", schema.get("type"))]))


# -- operations ------------------------------------------------------------------------------------

OF_PROBES = {("GET", "/healthz"), ("GET", "/metrics")}
GIVEN = {
    "number": 7,
    "version": 7,
    "leaf": 1,
    "size": 2,
    "old": 1,
    "form": "plain",
    "scopes": ["read"],
    "policy": {},
    "trained_on": "x",
    "rules": {},
    "content": b"x",
}
ANSWER = {"items": [], "next_page_token": None, "number": 7, "state": "succeeded", "status": "fulfilled"}
ANSWER |= dict.fromkeys(
    (
        "id",
        "digest",
        "job",
        "problem",
        "salt",
        "deleted",
        "entries",
        "hashes",
        "versions",
        "notices",
        "papers",
        "workers",
        "addresses",
    ),
    "thing",
) | {"size": 1}


def test_the_client_has_a_method_for_every_operation(document: dict[str, Any], tmp_path: Path) -> None:
    called: set[tuple[str, str]] = set()
    (tmp_path / "file").write_bytes(b"bytes")

    def record(request: httpx.Request) -> httpx.Response:
        called.add((request.method, request.url.path))
        if request.url.path.endswith(":reuse"):  # nothing is held: the file is sent
            return httpx.Response(404, json={"type": "urn:lethe:problems/not-found", "title": "", "status": 404})
        text = "" if request.url.path.endswith((":import", "/events")) else json.dumps(ANSWER)
        return httpx.Response(200, content=iter([text.encode()]))

    with Client("http://service", "key", transport=httpx.MockTransport(record)) as client:
        calls = [client.catalog, client.ready]
        for noun in (vars(client)[name] for name in vars(client) if not name.startswith("_")):
            if type(noun).__module__.startswith("lethe."):
                calls += [getattr(noun, name) for name in dir(noun) if not name.startswith("_") and name != "path"]
        for call in calls:
            needed = [p for p in inspect.signature(call).parameters.values() if p.default is p.empty]
            names = [p.name for p in needed if p.kind is p.POSITIONAL_OR_KEYWORD]
            names += [
                name for name in inspect.signature(call).parameters if name == call.__name__ == "audit"
            ]  # of versions
            files = {
                "file": tmp_path / "file",
                "files": [tmp_path / "file"],
                "target": tmp_path / "target",
                "requests": [{}],
            }
            try:
                found = call(**{name: (GIVEN | files).get(name, "thing") for name in names})
                if isinstance(found, Iterator):
                    list(found)
            except LetheError:
                pass  # the made-up answers go only so far; the call was made
    operations = {(method.upper(), path) for path, item in document["paths"].items() for method in item} - OF_PROBES
    for method, path in operations:
        shape = re.compile(re.sub(r"{\w+}", "[^/:]+", path))
        assert any(m == method and shape.fullmatch(p) for m, p in called), (method, path)
