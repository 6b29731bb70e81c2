"""Every input that fuzzing kept is parsed or refused, as is what a client in good faith sends."""

from __future__ import annotations

import pytest

from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_that_reached_more_are_parsed_or_refused(name: str) -> None:
    target = TARGETS[name]
    inputs = target.corpus(name)
    assert inputs
    for data in inputs:
        target.run(data)
