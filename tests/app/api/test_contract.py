"""A short run of schemathesis on both databases; `make contract` is the long one."""

from __future__ import annotations

import pytest

from tests.contract import hold
from tests.trained import Trained


@pytest.mark.contract
def test_the_api_is_what_its_openapi_document_says(trained: Trained) -> None:
    settings = trained.account.settings
    arguments = ("--phases", "fuzzing,stateful", "-n", "2", "--seed", "1", "--no-shrink")
    done = hold(settings.data_dir, settings.database_url, *arguments)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "No issues found" in done.stdout
