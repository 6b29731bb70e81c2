"""The page at /docs: the OpenAPI document as one readable page that fetches nothing from anywhere."""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from app.api.http.patterns import WORDS

SCHEMAS = "#/components/schemas/"
PLAIN = "Successful Response"  # where the document has no word of its own
LEAST, MOST = ("minLength", "minItems"), ("maxLength", "maxItems")


def render(document: dict[str, Any], openapi_url: str, script: str = "", csrf: str = "", *, brief: bool = False) -> str:
    """The page, whole without a script. script: the address of one of our own, which searches and calls. csrf: what it
    sends with the cookie of a session. brief: headings alone, an eighth of it; the script fetches each `part` that is
    looked at."""
    schemas = document["components"]["schemas"]
    nouns: dict[str, list[dict[str, Any]]] = {}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            noun = (operation.get("tags") or ["service"])[0]
            made = _heading(method, path, operation) if brief else _call(method, path, operation, schemas)
            nouns.setdefault(noun, []).append(made)
    return pages.get_template("api.html.j2").render(
        document=document,
        nouns=nouns,
        schemas=[{"name": name} if brief else _schema(name, schemas) for name in sorted(schemas)],
        openapi_url=openapi_url,
        script=script,
        csrf=csrf,
        brief=brief,
        texts={tag["name"]: tag["description"] for tag in document.get("tags", ())},
        hooks=[
            _call(method, f"webhook: {name}", {"operationId": f"webhook-{name}", **operation}, schemas)
            for name, item in document.get("webhooks", {}).items()
            for method, operation in item.items()
        ],
    )


def part(document: dict[str, Any], name: str) -> str | None:
    """The section of a call, by its operation's id, or of a schema, by `schema-` and its name; None: there is none."""
    schemas = document["components"]["schemas"]
    parts: Any = pages.get_template("api_parts.html.j2").module
    if (schema := name.removeprefix("schema-")) != name:
        return str(parts.of_schema(_schema(schema, schemas))) if schema in schemas else None
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if operation["operationId"] == name:
                return str(parts.of_call(_call(method, path, operation, schemas), "of the page"))
    return None


def _schema(name: str, schemas: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "type": typed(schemas[name]), **_body(schemas[name], schemas)}


def _heading(method: str, path: str, operation: dict[str, Any]) -> dict[str, Any]:
    """What is said of a call before it is opened, and what a try of it asks for."""
    media = next(iter(_contents(operation.get("requestBody", {}))), "")
    queries = [each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"]
    text = (operation.get("description") or operation.get("summary", "")).split("\n\n")[0]
    names = {"id": operation["operationId"], "method": method.upper(), "path": path}
    return names | {"media": media, "query": " ".join(queries), "text": text.partition(". ")[0].rstrip(".") + "."}


def _call(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    body = operation.get("requestBody", {})
    return {
        "id": operation["operationId"],
        "method": method.upper(),
        "path": path,
        "text": operation.get("description") or operation.get("summary", ""),
        "scopes": [scope for way in operation.get("security", ()) for scopes in way.values() for scope in scopes],
        "parameters": [
            _field(each["name"], _sent(each["schema"]), each["required"], each.get("description"), each["in"])
            for each in operation.get("parameters", ())
        ],
        "optional_body": bool(body) and not body.get("required"),
        "bodies": [
            {"media": media, "type": typed(schema) if schema.keys() - {"description"} else "", **_body(schema, schemas)}
            for media, schema in _contents(body).items()
        ],
        "replies": _replies(operation["responses"]),
    }


def _body(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """What a schema says of itself, and its fields."""
    schema = schemas[schema["$ref"].removeprefix(SCHEMAS)] if "$ref" in schema else schema
    needed = schema.get("required", ())
    fields = [_field(name, each, name in needed) for name, each in schema.get("properties", {}).items()]
    example = next(iter(schema.get("examples", ())), None)
    said = "" if example is None else json.dumps(example, indent=2, ensure_ascii=False)
    return {"text": schema.get("description", ""), "fields": fields, "example": said}


def _field(name: str, schema: dict[str, Any], required: bool, text: str | None = None, at: str = "") -> dict[str, Any]:
    return {
        "name": name,
        "in": at,
        "required": required,
        "type": typed(schema),
        "bounds": bounds(schema),
        "default": json.dumps(schema["default"]) if "default" in schema else "",
        "text": text or schema.get("description", ""),
    }


def _sent(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter cannot be null, it can only be left out."""
    if "anyOf" not in schema:
        return schema
    return {**schema, "anyOf": [each for each in schema["anyOf"] if each != {"type": "null"}]}


def _replies(responses: dict[str, Any]) -> list[dict[str, Any]]:
    """Replies in the order of their status; those that say the same are one row."""
    rows: dict[str, dict[str, Any]] = {}
    for status, reply in sorted(responses.items()):
        text = reply["description"]
        contents = {media: typed(schema) for media, schema in _contents(reply).items()}
        row = {"text": "" if text == PLAIN else text, "contents": contents, "headers": reply.get("headers", {})}
        known = rows.setdefault(json.dumps(row, default=str), {**row, "statuses": []})
        known["statuses"].append(f"{status} {_phrase(status)}")
    return list(rows.values())


def _phrase(status: str) -> str:
    return HTTPStatus(int(status)).phrase if status.isdigit() else "success"


def _contents(holder: dict[str, Any]) -> dict[str, Any]:
    return {media: each.get("schema", {}) for media, each in holder.get("content", {}).items()}


def typed(schema: dict[str, Any]) -> Markup:
    """The type in words, with links to the schemas that have a name."""
    if "$ref" in schema:
        return Markup('<a href="#schema-{0}">{0}</a>').format(schema["$ref"].removeprefix(SCHEMAS))
    if "const" in schema or "enum" in schema:
        values = schema.get("enum") or [schema["const"]]
        return Markup(" | ").join(Markup("<code>{}</code>").format(json.dumps(value)) for value in values)
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return Markup(" or ").join(typed(each) for each in schema[union])
    if schema.get("type") == "array":
        items = schema.get("items", {})
        return Markup("array of {}").format(Markup("({})").format(typed(items)) if "anyOf" in items else typed(items))
    if isinstance(schema.get("additionalProperties"), dict):
        return Markup("object of {}").format(typed(schema["additionalProperties"]))
    form = schema.get("format")
    return escape(schema.get("type", "anything") + (f" ({form})" if form else ""))


def bounds(schema: dict[str, Any]) -> str:
    """What holds a value in, in words."""
    parts = [bounds(each) for each in (*schema.get("anyOf", ()), *schema.get("oneOf", ()))]
    if "items" in schema and (each := bounds(schema["items"])):
        parts.append(f"each {each}")
    unit = "items" if schema.get("type") == "array" else "characters"
    least = next((schema[key] for key in LEAST if key in schema), None)
    most = next((schema[key] for key in MOST if key in schema), None)
    if least is not None and most is not None:
        parts.insert(0, f"{least:,} to {most:,} {unit}")
    elif least is not None or most is not None:
        parts.insert(0, f"at most {most:,} {unit}" if least is None else f"at least {least:,} {unit}")
    for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<")):
        if key in schema:
            parts.append(f"{sign} {_number(schema[key])}")
    if "multipleOf" in schema:
        parts.append(f"a multiple of {_number(schema['multipleOf'])}")
    if "pattern" in schema:
        parts.append(WORDS.get(schema["pattern"]) or f"matches `{schema['pattern']}`")
    return ", ".join(part for part in parts if part)


def _number(value: float) -> str:
    return f"{int(value) if value == int(value) else value:,}"


def prose(text: str) -> Markup:
    """A description with its code spans; all other characters are text."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped before


def breaks(path: str) -> Markup:
    """A path that a narrow screen breaks between its words."""
    return Markup(re.sub(r"(?=[/:])", "<wbr>", str(escape(path))))  # noqa: S704 - escaped before


pages = Environment(loader=PackageLoader("app.api.http"), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
pages.filters |= {"prose": prose, "breaks": breaks}
