"""The engine obeys the rules of a GPU, told by a device that only pretends to be one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from app import catalog
from tests.catalog_cases import own

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def waits() -> dict[str, dict[str, list[int]]]:
    """By kind and name: how often the host waited for the device with large batches, and with small ones."""
    command = [sys.executable, "-W", "error", "-m", "tests.engine.device_cases"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("kind", ["recipes", "methods", "attacks"])
def test_no_step_waits_for_the_device(waits: dict[str, dict[str, list[int]]], kind: str) -> None:
    """Twice as many batches, and not one wait more; that each ran says that no two devices were mixed."""
    assert set(waits[kind]) == set(getattr(catalog, kind.upper()))
    assert {name: few for name, (few, many) in waits[kind].items() if few != many} == {}


def test_no_network_waits_for_the_device(waits: dict[str, dict[str, list[int]]]) -> None:
    assert waits["architectures"] == {name: [0] for name in own("architectures")}


@pytest.mark.parametrize("name", ["tensors", "values", "generator"])
def test_the_device_refuses_what_cuda_refuses(waits: dict[str, dict[str, list[int]]], name: str) -> None:
    assert waits["refused"][name] == [1]


def test_waits_are_seen(waits: dict[str, dict[str, list[int]]]) -> None:
    assert waits["seen"] == {"item": [1], "nonzero": [1], "mask": [1], "cpu": [1], "sum": [0]}
