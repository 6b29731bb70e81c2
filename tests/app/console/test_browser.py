"""An officer's and an engineer's way through the console in a real browser: wide and narrow, light and dark, on both
databases, without an error in the browser's console, and without a violation that axe-core finds."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from sqlalchemy import update

from app.core.config import Settings
from app.core.tables import Job
from app.main import create_app
from app.rules.states import JobState
from tests.app.console.browsing import link
from tests.conftest import POSTGRES
from tests.support import Account, eventually, free_port, scratch_database
from tests.trained import Template, Trained, open_account

pytestmark = pytest.mark.browser
AXE = str(files("axe_playwright_python") / "axe.min.js")
WALKS = [
    ("sqlite", 1280, "light"),
    ("sqlite", 390, "dark"),
    pytest.param(("postgres", 1280, "dark"), marks=pytest.mark.services),
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    from tests.conftest import CHROMIUM

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, template: Callable[[str], Template]
) -> Iterator[Callable[[str], tuple[Trained, str]]]:
    """The prepared account on a kind of database and the service's address, begun at its first use."""
    with ExitStack() as stack:

        @cache
        def begun(kind: str) -> tuple[Trained, str]:
            folder = tmp_path_factory.mktemp(kind) / "data"
            source = template(kind)
            shutil.copytree(source.folder, folder)
            name = source.url.rpartition("/")[2]
            url = stack.enter_context(scratch_database(POSTGRES, name)) if source.url else ""
            account = stack.enter_context(open_account(Settings(data_dir=folder, database_url=url)))
            trained = Trained(account, source.dataset, source.model, source.ids)
            return trained, stack.enter_context(served(account.settings))

        yield begun


@contextmanager
def served(settings: Settings) -> Iterator[str]:
    """The service on a port of its own, in a thread; its jobs are run by the test."""
    port = free_port()
    app = create_app(settings)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, http="app.api.http.connections:Connection"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    eventually(lambda: server.started, "the server")
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


class Walk:
    """A page of the browser that notes every error, and is looked at by axe-core on the way."""

    def __init__(self, page: Any, trained: Trained, address: str) -> None:
        self.page, self.trained, self.address = page, trained, address
        self.faults: list[str] = []
        self.fetched: list[str] = []  # by the page that is being loaded
        page.on("console", lambda said: self.faults.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("requestfailed", lambda call: self._has_failed(call))
        page.on("request", self._fetches)
        page.on("load", lambda _: self._has_loaded())

    def _fetches(self, call: Any) -> None:
        if not call.url.startswith((self.address, "data:")):
            self.faults.append(f"a request to {call.url}")
        if call.is_navigation_request():
            self.fetched = []
        if not call.url.startswith("data:"):
            self.fetched.append(call.url)

    def _has_loaded(self) -> None:
        """Three requests a page at most, and two streams of jobs beside them: a browser has six connections."""
        streams = [url for url in self.fetched if url.endswith("/events")]
        if len(self.fetched) - len(streams) > 3 or len(streams) > 2:
            self.faults.append(f"too many requests: {self.fetched}")

    def _has_failed(self, call: Any) -> None:
        """An event stream ends with its page, and so does a part of a page that is still on its way."""
        if not call.url.endswith("/events") and call.failure != "net::ERR_ABORTED":
            self.faults.append(f"{call.url}: {call.failure}")

    def look(self) -> None:
        """Nothing is wider than the window, and axe-core finds nothing."""
        wide = self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        if wide > 0:
            self.faults.append(f"{self.page.url} is {wide} pixels too wide")
        found = self.page.evaluate("async () => (await axe.run(document, {resultTypes: ['violations']})).violations")
        for each in found:
            places = [node["html"][:120] for node in each["nodes"][:3]]
            self.faults.append(f"{self.page.url}: {each['id']}: {each['help']}: {places}")


@pytest.fixture
def walk(
    chromium: Any, service: Callable[[str], tuple[Trained, str]], request: pytest.FixtureRequest
) -> Iterator[Walk]:
    kind, width, scheme = request.param
    context = chromium.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
        timezone_id="Europe/Berlin",
        reduced_motion="reduce",
    )
    context.add_init_script(path=AXE)
    found = Walk(context.new_page(), *service(kind))
    yield found
    context.close()
    assert found.faults == []


def sign_in(walk: Walk, account: Account, role: str) -> None:
    walk.page.goto(f"{walk.address}/console/sign-in/link/{link(account.database, role, name=role)}")
    walk.look()
    walk.page.get_by_role("button", name="Sign in").click()
    walk.page.wait_for_url("**/console")


def open_menu(walk: Walk) -> None:
    menu = walk.page.locator("summary", has_text="Menu")
    if menu.is_visible():
        menu.click()


def to(walk: Walk, name: str) -> None:
    """By the navigation, which is behind a button where there is no room for it."""
    open_menu(walk)
    walk.page.get_by_role("link", name=name, exact=True).locator("visible=true").first.click()


@pytest.mark.parametrize("walk", WALKS, indirect=True)
def test_an_officers_way(walk: Walk, tmp_path: Path) -> None:
    page, shared = walk.page, walk.trained
    account = shared.account
    at = 0 if page.viewport_size["width"] > 400 else 40
    sign_in(walk, account, "officer")
    walk.look()
    assert "CET" in page.locator("footer").inner_text()  # the zone of the reader from the first page on
    page.get_by_role("link", name="New request").click()
    page.get_by_label("these samples").check()
    page.get_by_label("Who or what").fill("\n".join(shared.ids[at : at + 20]))
    page.get_by_label("Where you act").fill("DE-BY")
    page.get_by_label("Law").focus()
    page.locator("#meaning").get_by_text("Answer due").wait_for()
    assert "20" in page.locator("#meaning").inner_text()
    walk.look()
    page.get_by_role("button", name="Send the request").click()
    page.get_by_text("The request is accepted. It will end").wait_for()
    walk.look()
    page.locator("summary", has_text="Put on hold").click()
    page.locator("#reason-hold").fill("A court asks for it.")
    page.get_by_role("button", name="Put on hold").click()
    page.get_by_text("The request is on hold. ", exact=False).first.wait_for()
    page.locator("summary", has_text="End the hold").click()
    page.get_by_role("button", name="End the hold").click()
    page.get_by_text("The hold has ended.").wait_for()
    account.work()
    page.reload()
    page.locator(".verdict strong").wait_for()
    walk.look()
    letter = tmp_path / "letter.pdf"
    letter.write_bytes(b"%PDF-1.4 a letter")
    page.locator("summary", has_text="Attach a letter").click()
    page.get_by_label("File, 4 MB at most").set_input_files(letter)
    page.get_by_role("button", name="Attach", exact=True).click()
    page.get_by_role("link", name="letter.pdf").wait_for()
    page.get_by_role("link", name="report").click()
    page.get_by_role("heading", name="What this means").wait_for()
    walk.look()
    page.go_back()
    for name in ("Requests", "Register", "Settings", "Today", "Evidence"):
        to(walk, name)
        if name == "Register":
            page.get_by_role("heading", name="By outcome").wait_for()
        walk.look()
    case = tmp_path / "case.zip"
    case.write_bytes(b"no case file")
    page.get_by_label("File", exact=True).set_input_files(case)
    page.get_by_role("button", name="Check", exact=True).click()
    page.locator(".verdict strong", has_text="Not verified").wait_for()
    walk.look()
    open_menu(walk)
    page.get_by_role("button", name="Sign out").locator("visible=true").click()
    page.get_by_role("heading", name="Sign in").wait_for()


def nothing_typed_is_lost_when_a_job_ends(walk: Walk) -> None:
    """As read: the page was loaded again under the reader's hands, and what was typed was gone."""
    page, shared = walk.page, walk.trained
    job = shared.account.post(f"{shared.where}:train")["id"]

    def put(state: JobState) -> None:
        with shared.account.database.write() as session:
            session.execute(update(Job).where(Job.id == job).values(state=state))

    put(JobState.RUNNING)
    page.goto(f"{walk.address}/console/models/{shared.model}")
    page.locator("[data-events]").wait_for()
    put(JobState.QUEUED)
    page.get_by_label("Keep old versions").fill("33")
    page.locator("summary", has_text="Roll back").click()
    shared.account.post(f"/v1/jobs/{job}:cancel")
    page.get_by_text("It has ended.").wait_for()
    assert page.get_by_label("Keep old versions").input_value() == "33"
    assert page.get_by_role("button", name="Roll back").is_visible()
    walk.look()
    page.get_by_role("link", name="Load the page again.").click()
    page.locator("[data-events]").wait_for(state="detached")


@pytest.mark.parametrize("walk", WALKS, indirect=True)
def test_an_engineers_way(walk: Walk, tmp_path: Path) -> None:
    page, account = walk.page, walk.trained.account
    sign_in(walk, account, "engineer")
    to(walk, "Datasets")
    walk.look()
    page.get_by_role("link", name="Register a dataset").click()
    walk.look()
    page.get_by_label("Name").fill("ours")
    page.get_by_role("button", name="Register").click()
    page.get_by_role("heading", name="Send its content").wait_for()
    walk.look()
    wrong = tmp_path / "wrong.npz"
    wrong.write_bytes(b"this is no archive")
    page.get_by_label("File").set_input_files(wrong)
    with page.expect_response("**/content") as refused:
        page.get_by_role("button", name="Send").click()
    assert refused.value.status == 422
    page.locator("[data-said]", has_text="archive").or_(page.locator("[data-said]", has_text="npz")).wait_for()
    walk.faults = [each for each in walk.faults if "422" not in each]  # the browser notes every refusal
    to(walk, "Datasets")
    page.get_by_role("link", name="digits").click()
    page.locator("summary", has_text="Look at pictures").click()
    page.get_by_role("button", name="Look", exact=True).click()
    page.locator(".pictures img").first.wait_for()
    walk.look()
    to(walk, "Models")
    walk.look()
    page.get_by_role("link", name="m", exact=True).click()
    walk.look()
    page.get_by_label("Let this alias").fill("production")
    page.get_by_role("button", name="Set", exact=True).click()
    page.get_by_text("The alias is changed.").wait_for()
    page.locator("summary", has_text="Plan an audit").click()
    page.get_by_role("button", name="Plan", exact=True).click()
    page.get_by_role("heading", name="Audit plan").wait_for()
    walk.look()
    page.go_back()
    page.get_by_label("Keep old versions").fill("3")
    page.get_by_role("button", name="Change the policy").click()
    page.get_by_text("The policy is changed.").wait_for()
    page.locator("summary", has_text="Train a candidate").click()
    page.get_by_role("button", name="Train", exact=True).click()
    page.locator("[data-events]").wait_for()
    walk.look()
    account.work()  # the page follows the job by the event stream, and is read again when it has ended
    page.get_by_text("Succeeded").first.wait_for()
    walk.look()
    nothing_typed_is_lost_when_a_job_ends(walk)
    to(walk, "Jobs")
    walk.look()
    to(walk, "Settings")
    walk.look()


@pytest.mark.parametrize("walk", WALKS[:1], indirect=True)
def test_the_page_of_the_api_opens_what_is_looked_at(walk: Walk) -> None:
    page = walk.page
    sign_in(walk, walk.trained.account, "owner")
    page.goto(f"{walk.address}/docs#deletion_requests_create")
    call = page.locator("#deletion_requests_create")
    call.get_by_text("Parameters").wait_for()
    call.get_by_role("link", name="DeletionCreate").first.click()
    page.locator("#schema-DeletionCreate table").wait_for()
    page.get_by_label("Search").fill("sample_ids subjects")
    page.locator("header small", has_text=" of ").wait_for()
    assert page.locator("#schema-DeletionCreate").is_visible()
    assert not page.locator("#catalog_read").is_visible()
    page.get_by_label("Search").fill("/v1/jobs")
    jobs = page.locator('section[data-method="GET"][data-path="/v1/jobs"]')
    jobs.locator("h3 a").click()
    jobs.get_by_role("button", name="Try it").click()
    jobs.get_by_role("button", name="GET it").click()
    jobs.get_by_text('"items"').wait_for()
    walk.look()


@pytest.mark.parametrize("walk", WALKS[:2], indirect=True)
def test_axe_finds_nothing_on_the_pages_beside_these_ways(walk: Walk) -> None:
    page, shared = walk.page, walk.trained
    account = shared.account
    at = 100 if page.viewport_size["width"] > 400 else 140
    request = shared.forget(shared.ids[at : at + 20])["id"]
    notice = account.post(f"/v1/deletion-requests/{request}/notices", {"kind": "completion"})["id"]
    hook = account.post("/v1/webhooks", {"url": "https://93.184.216.34/hook"})["id"]
    version = account.get(shared.where)["current_version"]
    sign_in(walk, account, "owner")
    model = f"/console/models/{shared.model}"
    for path in (
        "/docs",
        "/console/settings",
        f"/console/settings/webhooks/{hook}",
        "/console/settings/rules",
        "/console/settings/letters/completion/de",
        f"{model}/compare?a={version}&b={version}",
        f"{model}/versions/{version}",
        model,
        f"{shared.where}/versions/{version}/audit",
        "/console/models/new",
        "/console/requests/find",
        f"/console/requests/{request}",
        f"/console/requests/{request}/notices/{notice}",
        f"/console/requests/{request}/nothing",
        f"/console/jobs?model={shared.model}",
        "/console/audits",
    ):
        page.goto(walk.address + path)
        walk.look()
    walk.faults = [each for each in walk.faults if "404" not in each]  # the browser notes every refusal
    account.http.delete(f"/v1/webhooks/{hook}")
    page.emulate_media(media="print")
    page.goto(f"{walk.address}/console/requests/{request}")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")  # as the browser does
    assert page.locator("main button:visible, main .button:visible, main form:visible").count() == 0
    assert page.locator("details.act", has_text="Erased, with receipts").locator("table").is_visible()
    page.goto(f"{walk.address}/console/requests/{request}/notices/{notice}")
    assert page.locator("main").inner_text().strip() == page.locator(".letter").inner_text().strip()
