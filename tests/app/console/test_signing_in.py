"""Who gets into the console, how a session ends, and what its cookie is good for at the API."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import update

from app.core import db, keys, users
from app.core.tables import ApiKey, ConsoleSession
from tests.app.console.browsing import COOKIE, HTML, Browser, Form, Page, browser, link
from tests.helpers import is_problem, other_tenant
from tests.support import Account


@pytest.fixture
def stranger(account: Account) -> Iterator[Browser]:
    with browser(account.http.app, account.database) as found:
        yield found


@pytest.fixture
def owner(account: Account) -> Iterator[Browser]:
    with browser(account.http.app, account.database, "owner") as found:
        yield found


@pytest.mark.validation
def test_a_link_signs_in_once_and_looking_at_it_does_not_use_it_up(account: Account, stranger: Browser) -> None:
    token = link(account.database, "officer")
    for _ in range(2):
        form = stranger.open(f"/console/sign-in/link/{token}").form("/link")
    assert stranger.send(form).title == "Today · Lethe"
    with browser(account.http.app, account.database) as second:
        page = second.send(form, 401)
        assert page.has("works once")
        assert COOKIE not in second.http.cookies
        assert second.open("/console").title == "Sign in · Lethe"


def test_a_link_that_is_too_old_or_made_up_signs_nobody_in(account: Account, stranger: Browser) -> None:
    token = link(account.database, "officer")
    with account.database.write() as session:
        session.execute(update(ConsoleSession).values(expires_at=db.now(session) - timedelta(seconds=1)))
    for wrong in (token, token[:-1], "lethe-session_x_y", "", "lethe_" + token):
        assert stranger.send(Form("/console/sign-in/link", {"token": wrong}), 401).has("Make a new one")


@pytest.mark.validation
def test_neither_a_link_nor_a_session_is_good_for_the_other(account: Account, owner: Browser) -> None:
    assert account.http.get("/v1/models", headers=_bearer(link(account.database, "owner"))).status_code == 401
    assert account.http.get("/v1/models", headers=_bearer(owner.token)).status_code == 200
    with browser(account.http.app, account.database) as other:
        other.send(Form("/console/sign-in/link", {"token": owner.token}), 401)


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.validation
def test_another_site_can_neither_sign_in_nor_send_a_form(account: Account, owner: Browser) -> None:
    token = link(account.database, "officer")
    with browser(account.http.app, account.database) as other:
        other.http.headers["Sec-Fetch-Site"] = "cross-site"
        other.send(Form("/console/sign-in/link", {"token": token}), 403)
        assert COOKIE not in other.http.cookies
    page = owner.send(Form("/console/settings/keys", {"name": "mine", "scope-admin": "on"}), 403)
    assert page.has("not of your session")
    assert "mine" not in {row["name"] for row in account.get("/v1/api-keys")["items"]}


def test_a_session_that_was_left_is_over_whoever_has_its_cookie(account: Account, owner: Browser) -> None:
    stolen = owner.token
    left = owner.send(owner.open("/console").form("/sign-out"))
    assert left.title == "Sign in · Lethe"
    assert COOKIE not in owner.http.cookies
    owner.http.cookies.set(COOKIE, stolen)
    assert owner.open("/console/requests").title == "Sign in · Lethe"
    is_problem(account.http.get("/v1/models", headers=_bearer(stolen)), 401, "unauthorized")


@pytest.mark.validation
def test_a_session_ends_by_itself_and_with_its_user(account: Account) -> None:
    with browser(account.http.app, account.database, "officer") as one:
        with account.database.write() as session:
            session.execute(update(ConsoleSession).values(expires_at=db.now(session)))
        assert one.open("/console").title == "Sign in · Lethe"
    with browser(account.http.app, account.database, "engineer") as two:
        (user,) = (row for row in account.get("/v1/api-keys")["items"] if row["role"] == "engineer")
        assert (user["name"], user["scopes"]) == ("engineer", ["read", "operate", "samples"])
        is_problem(account.http.post(f"/v1/api-keys/{user['id']}:rotate", json={}), 409, "user-key")
        assert account.http.delete(f"/v1/api-keys/{user['id']}").status_code == 204
        assert two.open("/console").title == "Sign in · Lethe"


def test_the_cookie_reads_the_api_and_changes_it_with_the_token_against_forgery_only(
    account: Account, owner: Browser
) -> None:
    assert owner.http.get("/v1/models", headers={"Accept": "application/json"}).json() == {
        "items": [],
        "next_page_token": None,
    }
    body = {"name": "mine", "scopes": ["read"]}
    is_problem(owner.http.post("/v1/api-keys", json=body), 403, "csrf")
    is_problem(owner.http.post("/v1/api-keys", json=body, headers={"X-CSRF-Token": "0" * 32}), 403, "csrf")
    token = users.csrf_token(account.settings, owner.token)
    assert owner.http.post("/v1/api-keys", json=body, headers={"X-CSRF-Token": token}).status_code == 201


@pytest.mark.validation
def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(account: Account, stranger: Browser) -> None:
    form = Form("/console/sign-in/link", {"token": link(account.database, "officer")})
    said = stranger.http.post(form.action, data=form.fields, follow_redirects=False).headers["set-cookie"].lower()
    assert "httponly" in said
    assert "samesite=lax" in said
    assert "secure" not in said  # over http a browser would drop it


@pytest.mark.validation
def test_who_signs_in_comes_back_to_the_page_and_never_to_another_site(account: Account, stranger: Browser) -> None:
    led = stranger.http.get("/v1/models?page_size=2", follow_redirects=False)
    assert (led.status_code, led.headers["location"]) == (303, "/console/sign-in?next=/v1/models%3Fpage_size%3D2")
    for wrong in ("https://evil.example", "//evil.example", "/\\evil.example", "/console/../../x\n", "javascript:1"):
        form = Form("/console/sign-in/link", {"token": link(account.database, "officer"), "next": wrong})
        done = stranger.http.post(form.action, data=form.fields, follow_redirects=False)
        assert done.headers["location"] == "/console", wrong


@pytest.mark.validation
def test_the_root_leads_browsers_to_the_console_and_others_nowhere(account: Account, stranger: Browser) -> None:
    assert stranger.http.get("/", follow_redirects=False).headers["location"] == "/console"
    account.http.headers.pop("Accept", None)
    is_problem(account.http.get("/"), 404, "not-found")
    is_problem(account.http.get("/v1/models", headers={"Authorization": ""}), 401, "unauthorized")


def test_a_user_of_one_tenant_sees_no_page_of_another(account: Account, owner: Browser) -> None:
    dataset = account.post("/v1/datasets", {"name": "theirs", "source": {"name": "upload"}})["id"]
    other_tenant(account)
    assert owner.open(f"/console/datasets/{dataset}").has("theirs")
    with browser(account.http.app, account.database, "owner", "ten_other") as other:
        page = other.open(f"/console/datasets/{dataset}", 404)
        assert not page.has("theirs")
        assert not other.open("/console/datasets").has("theirs")


@pytest.mark.validation
def test_a_key_is_no_session(account: Account, stranger: Browser) -> None:
    token = account.settings.key_file.read_text().strip()
    stranger.http.cookies.set(COOKIE, token)
    assert stranger.open("/console").title == "Sign in · Lethe"


def test_a_user_signs_in_again_as_the_same_key(account: Account) -> None:
    for _ in range(2):
        with browser(account.http.app, account.database, "officer"):
            pass
    with account.database.read() as session:
        found = session.query(ApiKey).filter(ApiKey.role == "officer").all()
    assert [row.name for row in found] == ["officer"]
    assert found[0].tenant_id == keys.FIRST_TENANT


@pytest.mark.validation
def test_a_page_for_other_clients_stays_a_problem_document(account: Account) -> None:
    account.http.headers["Accept"] = "application/json"
    is_problem(account.http.get("/console", headers={"Authorization": ""}), 401, "unauthorized")
    assert Page(account.http.get("/console/sign-in", headers=HTML)).title == "Sign in · Lethe"


@pytest.mark.validation
def test_the_command_prints_a_link_of_this_service(
    account: Account, stranger: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from app.cli.main import cli

    monkeypatch.setenv("LETHE_DATA_DIR", str(account.settings.data_dir))
    monkeypatch.setenv("LETHE_DATABASE_URL", account.settings.database_url)
    monkeypatch.setenv("LETHE_PUBLIC_URL", "https://lethe.example")
    done = CliRunner().invoke(cli, ["console", "--name", "Ada Byron", "--role", "auditor"])
    assert done.exit_code == 0, done.output
    where, _, path = done.output.strip().partition("lethe.example")
    assert where == "https://"
    page = stranger.send(stranger.open(path).form("/link"))
    assert page.has("Ada Byron auditor")
    for wrong in (["--role", "king"], ["--name", " "], ["--tenant", "ten_none"]):
        assert CliRunner().invoke(cli, ["console", *wrong]).exit_code != 0


@pytest.mark.validation
def test_over_https_the_cookie_is_of_this_host_alone(account: Account) -> None:
    with browser(account.http.app, account.database) as found:
        found.http.base_url = "https://testserver"
        form = Form("/console/sign-in/link", {"token": link(account.database, "officer")})
        said = found.http.post(form.action, data=form.fields, follow_redirects=False).headers["set-cookie"]
        assert said.startswith("__Host-lethe-session=")
        assert "Secure" in said
        assert found.open("/console").title == "Today · Lethe"
