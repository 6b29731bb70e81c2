"""The page at /docs says all that the OpenAPI document says, fetches nothing, and takes no text for markup."""

from __future__ import annotations

import copy
import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from app.api import case_schemas, schemas
from app.api.http import described
from app.api.http.docs_page import bounds, prose, render, typed
from app.console.assets import asset
from app.core.config import Settings
from app.events import webhooks
from app.main import create_app
from app.rules import compliance

HOSTILE = "\"><script src='https://evil.example/x.js'>alert(1)</script>`<img src=x onerror=alert(1)>`&{{7*7}}"
FETCHING = {"src", "srcset", "data", "action", "poster", "background", "style"}


class Reader(HTMLParser):
    """The text under each id (sections do not nest), the links, and whatever could fetch or run something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self.links: list[str] = []
        self.bad: list[str] = []
        self.tags: list[str] = []
        self._section = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.bad += [name for name in values if name in FETCHING or name.startswith("on")]
        self.bad += [tag] if tag in ("script", "link", "img", "iframe", "object", "base") else []
        if name := values.get("id"):
            assert name not in self.texts
            self._section = name
            self.texts[name] = ""
        if tag == "a":
            self.links.append(values["href"] or "")

    def handle_data(self, data: str) -> None:
        if self._section:
            self.texts[self._section] += data


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return create_app(Settings(data_dir=tmp_path_factory.mktemp("data"))).openapi()


@pytest.fixture(scope="module")
def page(document: dict[str, Any]) -> Reader:
    return Reader(render(document, "/v1/openapi.json"))


def plain(text: str) -> str:
    """Without the marks of code and of lists."""
    return " ".join(re.sub(r"`|^- ", "", text, flags=re.MULTILINE).split())


def test_every_call_is_there_with_its_parameters_bodies_and_replies(document: dict[str, Any], page: Reader) -> None:
    schemas = document["components"]["schemas"]
    for path, item in document["paths"].items():
        for method, operation in item.items():
            text = plain(page.texts[operation["operationId"]])
            assert f"{method.upper()} {path}" in text
            assert plain(operation.get("description", "")) in text
            needed = [scope for way in operation.get("security", ()) for scopes in way.values() for scope in scopes]
            assert not needed or f"needs scope {' and '.join(needed)} " in text
            for parameter in operation.get("parameters", ()):
                assert f"{parameter['name']} {parameter['in']}" in text
                assert plain(parameter.get("description", "")) in text
            body = operation.get("requestBody", {}).get("content", {})
            for media, content in body.items():
                assert media in text
                name = content["schema"].get("$ref", "").rpartition("/")[2]
                assert name in text
                for field in schemas.get(name, {}).get("properties", ()):
                    assert re.search(rf"\b{field}\b", text), (path, field)
            for status, reply in operation["responses"].items():
                assert f"{status} " in text
                assert reply["description"] == "Successful Response" or plain(reply["description"]) in text
                for media, content in reply.get("content", {}).items():
                    assert media in text
                    assert content.get("schema", {}).get("$ref", "").rpartition("/")[2] in text


def test_every_schema_is_there_with_its_fields(document: dict[str, Any], page: Reader) -> None:
    seen = 0
    for name, schema in document["components"]["schemas"].items():
        text = plain(page.texts[f"schema-{name}"])
        assert plain(schema.get("description", "")) in text
        assert all(f'"{value}"' in text for value in schema.get("enum", ()))
        for field, member in schema.get("properties", {}).items():
            seen += 1
            must = " required" if field in schema.get("required", ()) else ""
            assert f"{field}{must} {plain(typed(member).striptags())}" in text, (name, field)
            assert plain(bounds(member)) in text
            assert plain(member.get("description", "")) in text
    assert seen > 300


def test_every_link_leads_somewhere_and_the_contents_lead_everywhere(document: dict[str, Any], page: Reader) -> None:
    assert {link.removeprefix("#") for link in page.links if link != "/v1/openapi.json"} <= page.texts.keys()
    calls = {f"#{operation['operationId']}" for item in document["paths"].values() for operation in item.values()}
    schemas = {f"#schema-{name}" for name in document["components"]["schemas"]}
    assert calls | schemas <= set(page.links)


def test_it_fetches_nothing_and_runs_nothing(document: dict[str, Any], page: Reader) -> None:
    assert page.bad == []
    text = re.sub(r"<pre data-example[^>]*>.*?</pre>", "", render(document, "/v1/openapi.json"), flags=re.DOTALL)
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_patterns_are_said_in_words(page: Reader) -> None:
    text = plain(page.texts["schema-DeletionCreate"])
    assert "its id, or its name if no other has the name" in text
    assert "its id, or its name" in plain(page.texts["schema-ModelCreate"])
    assert not any("0-9a-f" in each or "^" in each for each in page.texts.values())


def test_no_text_of_the_document_is_taken_for_markup(document: dict[str, Any], page: Reader) -> None:
    def spoil(node: Any) -> Any:
        if isinstance(node, list):
            return [spoil(each) for each in node]
        if not isinstance(node, dict):
            return node
        return {
            key: HOSTILE if key in ("description", "pattern", "default", "const") and isinstance(value, str) else
            [HOSTILE] if key == "enum" else spoil(value)
            for key, value in node.items()
        }  # fmt: skip

    spoiled = spoil(copy.deepcopy(document))
    found = Reader(text := render(spoiled, "/v1/openapi.json"))
    assert found.bad == []
    assert not set(found.tags) - set(page.tags)
    assert "<script" not in text
    assert "{{7*7}}" in text
    assert "evil.example" in found.texts["schema-Problem"]


def test_a_list_in_a_description_is_a_list(document: dict[str, Any]) -> None:
    text = render(document, "/v1/openapi.json")
    assert text.count("<ul>\n<li><code>application/vnd.apache.parquet</code>: columns") == 1
    assert "</li>\n<li><code>application/x-npz</code>: arrays" in text


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("the `id`, or `a` | `b`", "the <code>id</code>, or <code>a</code> | <code>b</code>"),
        ("`<b>` & <b>", "<code>&lt;b&gt;</code> &amp; &lt;b&gt;"),
        ("a lone ` stays", "a lone ` stays"),
    ],
)
def test_code_spans(text: str, html: str) -> None:
    assert prose(text) == html


@pytest.mark.parametrize(
    ("schema", "words", "limits"),
    [
        ({"type": "integer", "minimum": 1, "exclusiveMaximum": 2147483648.0}, "integer", "≥ 1, < 2,147,483,648"),
        ({"type": "number", "exclusiveMinimum": 0.5}, "number", "> 0.5"),
        ({"type": "string", "maxLength": 20}, "string", "at most 20 characters"),
        ({"type": "string", "minLength": 2}, "string", "at least 2 characters"),
        ({"type": "string", "format": "date-time"}, "string (date-time)", ""),
        ({"enum": ["a", "b"]}, '"a" | "b"', ""),
        ({"const": "a"}, '"a"', ""),
        ({"type": "object", "additionalProperties": {"type": "number"}}, "object of number", ""),
        ({}, "anything", ""),
        (
            {
                "anyOf": [
                    {"type": "array", "items": {"type": "string", "maxLength": 9}, "minItems": 1, "maxItems": 1000}
                ]
            },
            "array of string",
            "1 to 1,000 items, each at most 9 characters",
        ),
        (
            {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
            "array of (string or null)",
            "",
        ),
    ],
)
def test_types_and_bounds_in_words(schema: dict[str, Any], words: str, limits: str) -> None:
    assert typed(schema).striptags() == words
    assert bounds(schema) == limits


def test_every_example_fits_its_schema_and_is_shown(document: dict[str, Any], page: Reader) -> None:
    for name, example in described.EXAMPLES.items():
        where = next(each for each in (schemas, case_schemas, compliance) if hasattr(each, name))
        getattr(where, name).model_validate_json(json.dumps(example))
        assert document["components"]["schemas"][name]["examples"] == [example]
    sent = {
        content["schema"].get("$ref", "").rpartition("/")[2]
        for item in document["paths"].values()
        for operation in item.values()
        for content in operation.get("requestBody", {}).get("content", {}).values()
    }
    assert sent - {"", "Policy"} <= described.EXAMPLES.keys()
    assert '"subjects": [' in page.texts["deletion_requests_create"]


def test_tags_servers_and_webhooks_are_described(document: dict[str, Any], page: Reader) -> None:
    used = {tag for item in document["paths"].values() for call in item.values() for tag in call.get("tags", ())}
    assert {tag["name"] for tag in document["tags"]} == used == described.TAGS.keys()
    assert all(tag["description"] for tag in document["tags"])
    assert document["servers"] == [{"url": "/", "description": "this service"}]
    assert "Standard Webhooks" in page.texts["webhook-event"]
    moment = datetime(2026, 11, 29, 10, tzinfo=UTC).replace(tzinfo=None)
    real = json.loads(webhooks.payload(described.EVENT["type"], moment, described.EVENT["data"]))
    assert real.keys() == described.EVENT.keys() == document["components"]["schemas"]["Event"]["properties"].keys()


def test_the_page_is_served(tmp_path: Path) -> None:
    from fastapi.testclient import TestClient

    reply = TestClient(create_app(Settings(data_dir=tmp_path))).get("/docs")
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert reply.text.startswith("<!doctype html>")
    assert re.findall(r'<script src="([^"]*)"', reply.text) == [f"/console/assets/{asset('docs').name}"]
    assert 'name="csrf"' not in reply.text


def test_the_page_is_short_and_each_part_of_the_whole_one_is_fetched_by_its_name(
    document: dict[str, Any], page: Reader, tmp_path: Path
) -> None:
    from fastapi.testclient import TestClient

    http = TestClient(create_app(Settings(data_dir=tmp_path)))
    short = http.get("/docs").text
    assert len(short.encode()) < 100_000
    headings = Reader(short.partition("</header>")[2])
    parts = set(re.findall(r'<section id="([^"]+)" data-part', short))
    assert parts == page.texts.keys() - {"top", "webhook-event"}
    assert parts <= headings.texts.keys()
    for name in ("deletion_requests_create", "schema-Problem", "certificates_read_status", "schema-Policy"):
        if name in parts:
            assert plain(Reader(http.get(f"/docs/parts/{name}").text).texts[name]) == plain(page.texts[name])
    assert http.get("/docs/parts/nothing").status_code == 404
    assert len(http.get("/docs/all").text) > 3 * len(short)
