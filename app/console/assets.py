"""The console's style sheet and scripts: files that never change under their address, made at the start.

The script is htmx, as its makers ship it, and after it ours.
"""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.core.errors import NotFound

FOLDER = Path(__file__).parent / "static"
SOURCES = {
    "css": (("console.css",), "text/css; charset=utf-8"),
    "docs": (("docs.js",), "text/javascript; charset=utf-8"),
    "js": (("vendor/htmx.min.js", "console.js"), "text/javascript; charset=utf-8"),
}
router = APIRouter(prefix="/console/assets", include_in_schema=False)


class Asset(NamedTuple):
    name: str
    media_type: str
    body: bytes
    zipped: bytes


@cache
def asset(form: str) -> Asset:
    """Of `css`, `js` or `docs` (the script of the API's page), everything in one file, named by its digest."""
    files, media_type = SOURCES[form]
    body = b"\n".join((FOLDER / file).read_bytes() for file in files)
    name = f"{hashlib.sha256(body).hexdigest()[:16]}.{'css' if form == 'css' else 'js'}"
    return Asset(name, media_type, body, gzip.compress(body, mtime=0))


@router.get("/{name}")
def read(name: str, request: Request) -> Response:
    found = next((each for each in map(asset, SOURCES) if each.name == name), None)
    if found is None:
        raise NotFound("There is no such file.")
    headers = {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(found.zipped, headers={**headers, "Content-Encoding": "gzip"}, media_type=found.media_type)
    return Response(found.body, headers=headers, media_type=found.media_type)
