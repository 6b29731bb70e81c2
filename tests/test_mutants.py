"""Each guard that `make mutants` removes is there, so that the row is noticed when its file changes."""

from __future__ import annotations

import pytest

from tests.mutants import MUTANTS, ROOT, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.guard)
def test_the_guard_is_there(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text()
    assert mutant.applied(text) != text
    for test in mutant.tests:
        path, _, name = test.partition("::")
        function = f"def {name.partition('[')[0]}" if name else ""
        assert function in (ROOT / path).read_text(), test
