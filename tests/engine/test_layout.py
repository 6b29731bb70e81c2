"""Placing a network changes none of its values, and keeps it from what a CPU's library does wrong."""

from __future__ import annotations

import copy
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

from engine import layout

ROOT = Path(__file__).parents[2]


def strided() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 48, 1, stride=2), nn.BatchNorm2d(48), nn.Conv2d(48, 8, 1, stride=(1, 2)))


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
@pytest.mark.parametrize("side", [8, 9])
def test_values_and_names_stay(monkeypatch: pytest.MonkeyPatch, capability: str, side: int) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    images = torch.rand(2, 3, side, side)
    before = strided()
    after = copy.deepcopy(layout.placed(layout.placed(strided(), "cpu"), "cpu"))
    assert list(after.state_dict()) == list(before.state_dict())
    with torch.no_grad():
        assert torch.allclose(after(images), before(images), atol=1e-5)
    assert [layer.stride for layer in after if isinstance(layer, nn.Conv2d)] == [
        (1, 1) if capability == "AVX2" else (2, 2),
        (1, 2),
    ]


def test_a_step_of_repvggs_first_layer_leaves_memory_whole() -> None:
    """Without the mend, CPUs without AVX-512 end the process: `free(): invalid next size`."""
    code = """
        import torch
        from engine import layout
        torch.set_num_threads(1)
        model = layout.placed(torch.nn.Conv2d(3, 48, 1, stride=2), "cpu")
        for _ in range(50):
            model(torch.rand(2, 3, 64, 64).to(memory_format=torch.channels_last)).sum().backward()
        print("whole")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "whole\n"), done.stderr
