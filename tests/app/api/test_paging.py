"""Page tokens: what they are good for, and that nobody can make one."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from app.api.http.paging import Pager
from app.core.config import Settings
from app.core.errors import Unprocessable

SETTINGS = Settings(data_dir=Path("nowhere"), secret=SecretStr("a secret"))
SCOPE = ["ten_a", "/v1/jobs", [("state", "queued")]]


def token(last: str, scope: list[object] = SCOPE, settings: Settings = SETTINGS) -> str:
    return Pager(settings, 2, None, scope)._seal(last)


@given(st.text(min_size=1, max_size=40).filter(lambda text: text.isprintable()))
def test_a_token_gives_the_last_id_back_to_its_own_list(last: str) -> None:
    assert Pager(SETTINGS, 50, token(last), SCOPE).after == last
    assert "=" not in token(last)


@pytest.mark.parametrize(
    "scope",
    [
        ["ten_b", "/v1/jobs", [("state", "queued")]],
        ["ten_a", "/v1/models", [("state", "queued")]],
        ["ten_a", "/v1/jobs", [("state", "running")]],
        ["ten_a", "/v1/jobs", []],
        ["ten_a", "/v1/jobs"],
    ],
)
def test_a_token_is_refused_elsewhere(scope: list[object]) -> None:
    with pytest.raises(Unprocessable):
        Pager(SETTINGS, 2, token("job_1"), scope)


def test_a_token_of_another_secret_is_refused() -> None:
    other = SETTINGS.model_copy(update={"secret": SecretStr("another")})
    with pytest.raises(Unprocessable):
        Pager(SETTINGS, 2, token("job_1", settings=other), SCOPE)


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_nothing_that_was_not_sealed_is_accepted(text: str) -> None:
    if text == "":
        assert Pager(SETTINGS, 2, text, SCOPE).after is None
        return
    with pytest.raises(Unprocessable) as refused:
        Pager(SETTINGS, 2, text, SCOPE)
    assert refused.value.kind == "page-token"


def test_a_changed_id_under_an_old_seal_is_refused() -> None:
    sealed = base64.urlsafe_b64decode(token("job_1") + "==")
    forged = base64.urlsafe_b64encode(sealed[:16] + b"job_2").decode().rstrip("=")
    with pytest.raises(Unprocessable):
        Pager(SETTINGS, 2, forged, SCOPE)
