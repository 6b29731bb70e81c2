"""Signing in with an OpenID Connect provider, which runs as a process of its own on the loopback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from fastapi.testclient import TestClient

from app.core import keys
from app.core.config import Settings
from app.core.db import Database
from app.main import create_app
from tests.app.console.browsing import COOKIE, Browser
from tests.support import eventually, free_port

pytestmark = pytest.mark.validation
PEOPLE = {
    "ada": {"name": "Ada <b>Byron</b>", "groups": ["staff", "privacy"]},
    "tom": {"name": "Tom", "groups": ["ml"]},
    "eve": {"name": "Eve", "groups": ["visitors"]},
}


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    log = (tmp_path_factory.mktemp("provider") / "log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "oidc_provider_mock", "--port", str(port)], stdout=log, stderr=log
    )
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/.well-known/openid-configuration").status_code == 200
        except httpx.HTTPError:
            return False

    try:
        eventually(answers, "the provider")
        issuer = str(httpx.get(f"{url}/.well-known/openid-configuration").json()["issuer"])
        for sub, claims in PEOPLE.items():
            assert httpx.put(f"{url}/users/{sub}", json=claims).status_code == 204
        yield issuer
    finally:
        process.terminate()
        process.wait(10)
        log.close()


@pytest.fixture(params=["sqlite"])
def database_url() -> str:
    return ""


@pytest.fixture
def settings(provider: str, tmp_path: object, database_url: str) -> Settings:
    return Settings(
        data_dir=tmp_path / "data",  # type: ignore[operator]
        oidc_issuer=provider,
        oidc_client_id="lethe",
        oidc_client_secret="hush",
        oidc_roles="privacy=officer,ml=engineer",  # type: ignore[arg-type]
    )


@pytest.fixture
def person(settings: Settings, database: Database) -> Iterator[Browser]:
    with TestClient(create_app(settings), raise_server_exceptions=False, base_url="http://127.0.0.1") as http:
        yield Browser(http)


def sign_in(person: Browser, sub: str, next_: str = "") -> str:
    """Go to the provider, say who one is, and be sent back: the address on this service."""
    led = person.http.get("/console/sign-in/oidc", params={"next": next_}, follow_redirects=False)
    assert led.status_code == 302, led.text
    query = parse_qs(urlsplit(led.headers["location"]).query)
    assert query["code_challenge_method"] == ["S256"]
    assert query["state"]
    assert query["nonce"]
    asked = httpx.post(led.headers["location"], data={"sub": sub})
    return str(asked.headers["location"])


def test_a_user_of_the_provider_has_the_role_of_their_group(person: Browser, database: Database) -> None:
    page = person.open("/console/sign-in")
    assert page.has("Sign in with your organisation")
    done = person.http.get(sign_in(person, "ada", "/console/requests"), follow_redirects=False)
    assert (done.status_code, done.headers["location"]) == (303, "/console/requests")
    page = person.open("/console/settings")
    assert page.has("Ada <b>Byron</b>")
    assert page.has("officer: read, request, audit")
    first = person.token
    person.http.get(sign_in(person, "ada"))
    with database.read() as session:
        callers = keys.authenticate_many(session, [first, person.token]).values()
    assert len({who.key_id for who in callers if who}) == 1  # the same user in two sessions
    assert first != person.token


def test_who_is_in_no_group_and_whose_access_has_ended_stay_out(person: Browser, settings: Settings) -> None:
    assert person.open(sign_in(person, "eve"), 403).has("no group that may use this console")
    assert COOKIE not in person.http.cookies
    person.http.get(sign_in(person, "tom"))
    owner = {"Authorization": f"Bearer {settings.key_file.read_text().strip()}", "Accept": "application/json"}
    (tom,) = (row for row in person.http.get("/v1/api-keys", headers=owner).json()["items"] if row["name"] == "Tom")
    assert tom["role"] == "engineer"
    assert person.http.delete(f"/v1/api-keys/{tom['id']}", headers=owner).status_code == 204
    assert person.open(sign_in(person, "tom"), 403).has("may no longer sign in here")


def test_an_answer_that_this_browser_did_not_ask_for_is_refused(person: Browser, settings: Settings) -> None:
    answer = sign_in(person, "ada")
    with TestClient(person.http.app, base_url="http://127.0.0.1") as http:  # another browser: a forged sign-in
        assert Browser(http).open(answer, 403).has("did not ask to sign in")
    assert person.open(answer.replace("state=", "state=x"), 403).has("cannot be accepted")
    assert person.open(answer.replace("code=", "code=x"), 403).has("cannot be accepted")
    assert COOKIE not in person.http.cookies


def test_a_provider_that_does_not_answer_leaves_the_link(settings: Settings, database: Database) -> None:
    away = settings.model_copy(update={"oidc_issuer": f"http://127.0.0.1:{free_port()}"})
    with TestClient(create_app(away), raise_server_exceptions=False) as http:
        found = Browser(http)
        assert found.open("/console/sign-in/oidc", 503).has("does not answer")
        assert found.open("/console/sign-in").has("lethe console")


def test_groups_name_roles_that_there_are() -> None:
    with pytest.raises(ValueError, match="group=role"):
        Settings(oidc_roles="privacy=king")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="group=role"):
        Settings(oidc_roles="officer")  # type: ignore[arg-type]
