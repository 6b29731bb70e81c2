"""The software bill of materials of an image, as CycloneDX 1.6 JSON on standard output, from the locks alone.

    python deploy/sbom.py lethe-api requirements/api.txt

It needs no library and no network, and the same locks give the same bytes. A hash of a component is of one of the files
that the lock allows for it, one for each platform. What a lock takes on some platforms only is `optional`.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
import uuid
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ENTRY = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)(\[[^]]*\])?==(?P<version>[^\s;]+)\s*(;\s*(?P<marker>.*?))?\s*(--hash=.*)?"
)
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def components(lock: str) -> list[dict[str, Any]]:
    """Of the text of a lock.

    Raises:
        ValueError: a line is not a fixed version.
    """
    found = []
    joined = lock.replace("\\\n", " ")
    for line in filter(None, (line.partition(" #")[0].strip() for line in joined.splitlines())):
        if line.startswith("#"):
            continue
        match = ENTRY.fullmatch(line)
        if match is None:
            raise ValueError(f"no fixed version: {line[:80]}")
        name, version, marker = re.sub(r"[-_.]+", "-", match["name"]).lower(), match["version"], match["marker"]
        purl = f"pkg:pypi/{name}@{version.replace('+', '%2B')}"
        component: dict[str, Any] = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
        component["scope"] = "optional" if marker else "required"
        if hashes := HASH.findall(line):
            component["hashes"] = [{"alg": "SHA-256", "content": content} for content in hashes]
        if marker:
            component["properties"] = [{"name": "lethe:marker", "value": marker}]
        found.append(component)
    return found


def document(image: str, locks: list[str]) -> dict[str, Any]:
    """The whole bill."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    parts = [component for lock in locks for component in components(lock)]
    name = json.dumps([image, version, parts], sort_keys=True)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, name)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": image,
                "name": image,
                "version": version,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            }
        },
        "components": parts,
    }


if __name__ == "__main__":
    image, *paths = sys.argv[1:]
    json.dump(document(image, [Path(path).read_text() for path in paths]), sys.stdout, indent=1)
