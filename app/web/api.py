"""The page at /docs: the OpenAPI document as one readable page that fetches nothing from anywhere."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

pages = Environment(loader=PackageLoader("app.web"), autoescape=True, undefined=StrictUndefined)


def render(document: dict[str, Any], openapi_url: str) -> str:
    nouns: dict[str, list[dict[str, str]]] = {}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            text = operation.get("description") or operation.get("summary", "")
            row = {"method": method.upper(), "path": path, "text": text}
            nouns.setdefault((operation.get("tags") or ["service"])[0], []).append(row)
    return pages.get_template("api.html.j2").render(document=document, nouns=nouns, openapi_url=openapi_url)
