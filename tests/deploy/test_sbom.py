"""The bills of materials of the images: every locked package with version, hashes and purl, and nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.test_package import PROJECT, locked

ROOT = Path(__file__).parents[2]
IMAGES = {"lethe-api": ["api"], "lethe-worker": ["service", "torch"]}


def bill(image: str, *locks: str | Path) -> dict[str, Any]:
    command = [sys.executable, "-I", ROOT / "deploy/sbom.py", image, *locks]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(("image", "locks"), IMAGES.items())
def test_a_bill_holds_what_is_locked(image: str, locks: list[str]) -> None:
    paths = [f"requirements/{lock}.txt" for lock in locks]
    found = bill(image, *paths)
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    assert found["metadata"]["component"]["version"] == PROJECT["version"]
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}", found["serialNumber"])
    parts = {part["name"]: part for part in found["components"]}
    assert len(parts) == len(found["components"])
    unlocked = {"torch", "torchvision"} if "torch" in locks else set()  # of the index that the operator chooses
    wanted = locked(locks[0])
    assert parts.keys() == wanted.keys() | unlocked
    hashes = re.findall(r"--hash=sha256:([0-9a-f]{64})", (ROOT / paths[0]).read_text())
    for name, (version, count) in wanted.items():
        part = parts[name]
        assert part["version"] == version
        assert part["purl"] == part["bom-ref"] == f"pkg:pypi/{name}@{version}"
        assert len(part["hashes"]) == count > 0
        assert {each["alg"] for each in part["hashes"]} == {"SHA-256"}
    assert sorted(h["content"] for part in parts.values() for h in part.get("hashes", ())) == sorted(hashes)
    assert parts["uvloop"]["scope"] == "optional"
    assert parts["fastapi"]["scope"] == "required"
    assert bill(image, *paths) == found, "the same locks, the same bytes"


def test_a_line_that_is_no_fixed_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lock.txt").write_text("fastapi>=0.1\n")
    with pytest.raises(subprocess.CalledProcessError) as failure:
        bill("lethe-api", tmp_path / "lock.txt")
    assert "no fixed version: fastapi>=0.1" in failure.value.stderr


def test_the_images_ship_their_bills() -> None:
    text = (ROOT / "Dockerfile").read_text()
    for image, locks in IMAGES.items():
        given = " ".join(f"requirements/{lock}.txt" for lock in locks)
        assert f"RUN python deploy/sbom.py {image} {given} > sbom.cdx.json" in text
        assert f"deploy/sbom.py {image} {given} > build/{image}.cdx.json" in (ROOT / "Makefile").read_text()
    assert "!deploy/sbom.py" in (ROOT / ".dockerignore").read_text()
