"""What pages show and do: every page for every role, decisions, refusals that keep what was typed, hostile text."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from app.console import assets, words
from app.console.calls import Api
from app.core.tables import Version
from app.core.users import end_session
from tests.app.cases.sealed import case_of
from tests.app.console.browsing import COOKIE, HOSTILE, Browser, Form, Page, browser, inert, link
from tests.support import Account
from tests.trained import Trained

VENDOR = Path(assets.__file__).parent / "static" / "vendor"
ROLES = ("officer", "engineer", "auditor", "owner")


@pytest.fixture(scope="module")
def forgotten(shared: Trained) -> str:
    """A request that is fulfilled, with a second one on hold beside it; the id of the first."""
    made = shared.forget(shared.ids[:30])
    held = shared.delete(shared.ids[30:33])["id"]
    shared.account.post(f"/v1/deletion-requests/{held}:hold", {"reason": "A court has asked for it."})
    return str(made["id"])


@pytest.fixture(params=ROLES)
def anybody(request: pytest.FixtureRequest, shared: Trained) -> Iterator[tuple[str, Browser]]:
    with browser(shared.account.http.app, shared.account.database, request.param) as found:
        yield request.param, found


@pytest.fixture
def officer(account: Account) -> Iterator[Browser]:
    with browser(account.http.app, account.database, "officer") as found:
        yield found


def paths(shared: Trained, request: str) -> list[str]:
    model = f"/console/models/{shared.model}"
    job = shared.account.get("/v1/jobs", kind="unlearn")["items"][-1]["id"]
    return [
        "/console",
        *(f"/console/requests?show={shown}" for shown in ("open", "fulfilled", "held", "all", "nonsense")),
        "/console/requests/new",
        f"/console/requests/{request}",
        "/console/models",
        "/console/models/new",
        model,
        f"{model}/versions/1",
        f"{model}/versions/2",
        f"{model}/compare?a=1&b=2",
        "/console/audits",
        "/console/audits?show=asked",
        "/console/datasets",
        "/console/datasets/new",
        f"/console/datasets/{shared.dataset}",
        "/console/jobs",
        f"/console/jobs/{job}",
        "/console/settings",
    ]


def test_every_page_opens_for_every_role_and_fetches_and_runs_nothing_else(
    shared: Trained, forgotten: str, anybody: tuple[str, Browser]
) -> None:
    role, found = anybody
    titles = []
    audit = 200 if role != "engineer" else 403
    wanted = dict.fromkeys(paths(shared, forgotten), 200)
    for path, status in {**wanted, "/console/register": audit, "/console/evidence": audit}.items():
        page = found.open(path, status)
        titles.append(page.title)
        fetched = [v.get("src") or v.get("href", "") for t, v in page.tags if t in ("script", "link", "img", "iframe")]
        assert [each for each in fetched if not each.startswith(("/console/assets/", "data:image/svg+xml,"))] == []
        assert len(fetched) == 3, path  # style sheet, script, and an icon that is in the page
        for tag, values in page.tags:
            assert tag != "style"
            assert not [name for name in values if name == "style" or name.startswith("on")], (path, tag, values)
        assert len(page.source) < 60_000, path
    assert len(set(titles)) >= len(titles) - 3  # a title for each tab: two are of one model, and one list is another
    for heavy in map(assets.asset, assets.SOURCES):
        assert len(heavy.zipped) < 30_000


def test_pages_are_held_by_a_strict_policy(shared: Trained, anybody: tuple[str, Browser]) -> None:
    for path in ("/console", "/console/sign-in", "/console/nothing"):
        headers = anybody[1].http.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["cache-control"] == "no-store"


def test_assets_never_change_under_their_address(shared: Trained, anybody: tuple[str, Browser]) -> None:
    http = anybody[1].http
    script = assets.asset("js")
    reply = http.get(f"/console/assets/{script.name}")
    assert reply.content == script.body
    assert "immutable" in reply.headers["cache-control"]
    assert http.get(f"/console/assets/{script.name}", headers={"Accept-Encoding": ""}).content == script.body
    assert http.get("/console/assets/..%2fconsole.css").status_code == 404


def test_what_others_made_is_unchanged() -> None:
    ((file, digest),) = re.findall(r"^\| `(.+?)` .* `([0-9a-f]{64})` \|$", (VENDOR / "README.md").read_text(), re.M)
    assert hashlib.sha256((VENDOR / file).read_bytes()).hexdigest() == digest
    assert "Zero-Clause BSD" in (VENDOR / "htmx.LICENSE.txt").read_text()
    assert assets.asset("js").body.startswith((VENDOR / file).read_bytes())


def test_a_request_says_its_verdict_first_then_what_to_do_next(
    shared: Trained, forgotten: str, anybody: tuple[str, Browser]
) -> None:
    page = anybody[1].open(f"/console/requests/{forgotten}")
    report = shared.account.get(f"{shared.where}/versions/2/audit")["report"]
    assert page.has(report["judgement"]["verdict"].capitalize())
    for step in report["next_steps"]:
        assert page.has(step)
    assert page.has("What to do next")
    assert page.has("Tell the person that it is done: make the letter completion , and send it.")
    assert page.has("Nothing to do until")
    for path in (f"/console/models/{shared.model}/versions/2", f"/v1/models/{shared.model}/versions/2/audit"):
        assert anybody[1].open(path).has("What to do next"), path
    assert f"/v1/models/{shared.model}/versions/2/audit" in page.source
    assert page.has("until the dates named")


def test_the_report_opens_in_a_session_and_not_without(shared: Trained, forgotten: str) -> None:
    app, database = shared.account.http.app, shared.account.database
    path = f"{shared.where}/versions/2/audit"
    with browser(app, database) as stranger:
        assert stranger.open(path).title == "Sign in · Lethe"
    with browser(app, database, "auditor") as auditor:
        assert auditor.open(path).title.startswith("Unlearning audit")


def test_every_link_form_and_cookie_is_under_the_path_of_a_proxy(shared: Trained, forgotten: str) -> None:
    app, database, there = shared.account.http.app, shared.account.database, "/tools/lethe"
    with browser(app, database) as found:
        found.http.headers["X-Forwarded-Prefix"] = there
        led = found.http.get("/", follow_redirects=False)
        assert led.headers["location"] == f"{there}/console"
        begun = found.http.post(
            "/console/sign-in/link", data={"token": link(database, "owner", name="owner")}, follow_redirects=False
        )
        assert begun.headers["location"] == f"{there}/console"
        assert f"Path={there};" in begun.headers["set-cookie"]
        begun.cookies.clear()
        found.http.cookies.set(COOKIE, begun.headers["set-cookie"].split("=", 1)[1].split(";")[0])
        for path in (*paths(shared, forgotten), "/console/register", "/console/evidence", "/docs"):
            reply = found.http.get(path)
            for _, values in Page(reply).tags:
                for name in ("href", "src", "action", "hx-get", "hx-post", "data-events", "data-upload", "data-then"):
                    if values.get(name, "").startswith("/"):
                        assert values[name].startswith(f"{there}/"), (path, name, values[name])
            for said in reply.headers.get_list("set-cookie"):
                assert f"Path={there}/" in said, said
        kept = found.http.post("/console/requests", data={"who": "x"})
        assert f'action="{there}/console/requests"' in kept.text
        left = found.http.post(
            "/console/sign-out", data=Page(found.http.get("/console")).form("/sign-out").fields, follow_redirects=False
        )
        assert f"Path={there};" in left.headers["set-cookie"]


# -- decisions and forms ---------------------------------------------------------------------------


@pytest.fixture
def account(shared: Trained) -> Account:
    """With a trained model. Nothing works on its jobs."""
    return shared.account


unused = count(100)


@pytest.fixture
def request_id(shared: Trained) -> str:
    """An accepted request, which nothing carries out."""
    at = next(unused)
    return str(shared.delete(shared.ids[at : at + 1])["id"])


def test_an_officer_enters_a_request_and_sees_before_what_it_means(shared: Trained, officer: Browser) -> None:
    account, dataset, ids = shared.account, shared.dataset, shared.ids[90:92]
    before = len(account.get("/v1/deletion-requests")["items"])
    page = officer.open("/console/requests/new")
    form = page.form("/console/requests")
    typed = {"dataset": dataset, "by": "ids", "who": "\r\n".join(ids), "law": "gdpr", "place": "DE-BY"}
    meant = officer.send(Form("/console/requests/preview", form.fields), **typed)
    assert meant.has("Samples 2")
    assert meant.has("days left")
    assert len(account.get("/v1/deletion-requests")["items"]) == before
    done = officer.send(form, **typed)
    assert done.has("The request is accepted")
    officer.send(form, **typed)  # the same form twice, as an impatient finger sends it
    made, *earlier = account.get("/v1/deletion-requests")["items"]
    assert len(earlier) == before
    assert (made["samples"], made["jurisdiction"]) == (2, "gdpr:DE-BY")
    again = officer.send(officer.open("/console/requests/new").form("/console/requests"), 409, **typed)
    assert again.form("/console/requests").fields["who"].splitlines() == ids
    wrong = officer.send(form, 422, **{**typed, "place": "ZZ", "once": "another"})
    assert wrong.form("/console/requests").fields["place"] == "ZZ"


def test_decisions_are_made_once_on_what_was_seen(account: Account, officer: Browser, request_id: str) -> None:
    path = f"/console/requests/{request_id}"
    first, second = officer.open(path), officer.open(path)
    done = officer.send(first.form("/hold"), reason="A court has asked for it.")
    assert done.has("The request is on hold.")
    assert done.has("A court has asked for it.")
    late = officer.send(second.form("/cancel"), 412, reason="They took it back.")
    assert late.has("has changed since you opened it")
    assert late.form("/cancel").fields["reason"] == "They took it back."
    assert account.get(f"/v1/deletion-requests/{request_id}")["status"] == "held"
    assert officer.send(late.form("/cancel"), 412).has("has changed")  # it is still not decided on what is there now
    assert officer.send(officer.open(path).form("/release")).has("The hold has ended.")
    assert officer.send(officer.open(path).form("/cancel"), reason="They took it back.").has("Cancelled")
    left = {form.action.rpartition("/")[2] for form in officer.open(path).forms if form.action}
    assert left == {"sign-out", "notices", "case-file"}


def test_a_session_that_ends_in_the_middle_of_a_form_loses_nothing(
    account: Account, officer: Browser, request_id: str
) -> None:
    form = officer.open(f"/console/requests/{request_id}").form("/hold")
    typed = "A court asks.\nZweite Zeile, „mit“ Zeichen <b>&amp;</b> \u202etxet"
    with account.database.write() as session:
        end_session(session, officer.token)
    kept = officer.send(form, 401, reason=typed)
    assert kept.has("Nothing that you typed is lost")
    again = kept.form("/hold")
    assert again.fields["reason"] == typed
    officer.send(Form("/console/sign-in/link", {"token": link(account.database, "officer", name="officer")}))
    checked = officer.send(again, 403)  # the page was made before this session began
    assert checked.has("Check what is in it")
    assert checked.form("/hold").fields["reason"] == typed
    assert officer.send(checked.form("/hold")).has("The request is on hold.")
    assert account.get(f"/v1/deletion-requests/{request_id}")["reason"] == typed


def test_a_role_does_what_its_scopes_allow_and_is_refused_the_rest_in_words(shared: Trained, request_id: str) -> None:
    account, model = shared.account, shared.model
    app, database = account.http.app, account.database
    with browser(app, database, "engineer") as engineer, browser(app, database, "officer") as officer:
        csrf = {"csrf": engineer.open("/console").form("/sign-out").fields["csrf"]}
        hold = Form(f"/console/requests/{request_id}/hold", csrf | {"seen": _seen(officer, request_id)})
        assert engineer.send(hold, 403, reason="Mine.").has("scope request")
        assert not any(form.action.endswith("/hold") for form in engineer.open(f"/console/requests/{request_id}").forms)
        changed = engineer.send(engineer.open(f"/console/models/{model}").form("/policy"), method="fine_tune")
        assert changed.has("The policy is changed")
        mine = {"csrf": officer.open("/console").form("/sign-out").fields["csrf"]}
        assert officer.send(Form(f"/console/models/{model}/policy", mine), 403, method="amun").status == 403
        assert officer.send(Form(f"/console/models/{model}/start/train", mine), 403).has("scope operate")
        assert officer.send(Form("/console/settings/keys", mine), 403, name="k").has("scope admin")
    found = account.get(f"/v1/models/{model}")
    assert found["policy"]["method"]["name"] == "fine_tune"
    assert account.get(f"/v1/deletion-requests/{request_id}")["status"] == "processing"


def _seen(officer: Browser, request_id: str) -> str:
    return officer.open(f"/console/requests/{request_id}").form("/hold").fields["seen"]


def test_a_policy_keeps_what_the_form_does_not_have(shared: Trained, request_id: str) -> None:
    account, model = shared.account, shared.account.get(shared.where)
    policy = model["policy"] | {"method": {"name": "amun", "params": {"epochs": 3}}}
    account.http.put(f"/v1/models/{model['id']}/policy", json=policy)
    before = account.get(f"/v1/models/{model['id']}")["policy"]
    with browser(account.http.app, account.database, "engineer") as engineer:
        path = f"/console/models/{model['id']}"
        assert engineer.open(path).has("of this model wait for their job")
        engineer.send(engineer.open(path).form("/policy"), utility_floor="7,5", grace_days="3", when="batch")
        after = account.get(f"/v1/models/{model['id']}")["policy"]
        assert after["method"] == before["method"]
        assert (after["utility_floor"], after["grace_seconds"], after["when"]["mode"]) == (0.075, 3 * 86400, "batch")
        wrong = engineer.send(engineer.open(path).form("/policy"), 422, utility_floor="many")
        assert wrong.has("must be a number")
        assert wrong.form("/policy").fields["utility_floor"] == "many"


def test_filters_and_rows_are_remembered(account: Account, officer: Browser) -> None:
    officer.open("/console/requests?show=held&rows=25")
    assert officer.open("/console/requests").title == "Requests: On hold · Lethe"
    with browser(account.http.app, account.database, "officer") as other:
        assert other.open("/console/requests").title == "Requests: Open · Lethe"


def test_times_are_in_the_readers_zone_and_a_zone_that_is_none_is_utc(account: Account, officer: Browser) -> None:
    officer.http.cookies.set("lethe-zone", "Asia/Tokyo")
    assert officer.open("/console").has("JST")
    for wrong in ("../../etc/passwd", "Nowhere/None", "\x01", "x" * 5000):
        officer.http.cookies.set("lethe-zone", wrong)
        assert officer.open("/console").has("UTC")


def test_days_of_the_law_are_those_of_its_place_for_every_reader() -> None:
    """As seen: an answer due on 29 December was shown as due on the 30th to who reads in Berlin."""
    berlin = words.Clock("Europe/Berlin")
    assert "29 Dec 2026" in berlin.day("2026-12-29T23:59:59Z", "gdpr")
    assert "30 Dec 2026" in berlin.day("2026-12-29T23:59:59Z")
    berlin.now = datetime(2026, 12, 29, 12, tzinfo=UTC)
    assert "due today" in berlin.left("2026-12-29T23:59:59Z", "gdpr")
    assert "1 day left" in berlin.left("2026-12-29T23:59:59Z", "a law of tomorrow")
    assert "29 Dec 2026" in words.Clock("America/New_York").day("2026-12-29T22:59:59Z", "gdpr:DE-BY")


def test_the_services_words_have_code_and_clients_words_are_inert() -> None:
    assert words.prose("needs `read` <b>") == "<bdi>needs <code>read</code> &lt;b&gt;</bdi>"
    assert words.prose("one ` alone <b>") == "<bdi>one ` alone &lt;b&gt;</bdi>"


# -- hostile text ----------------------------------------------------------------------------------


def test_hostile_text_is_inert_wherever_it_is_shown(shared: Trained, request_id: str) -> None:
    account = shared.account
    dataset = account.post("/v1/datasets", {"name": HOSTILE, "source": {"name": "upload"}})["id"]
    named = account.post(
        "/v1/models", {"name": HOSTILE, "dataset": shared.dataset, "architecture": {"name": "small_cnn"}}
    )["id"]
    reason = HOSTILE + "W" * (2000 - len(HOSTILE))
    account.post(f"/v1/deletion-requests/{request_id}:hold", {"reason": reason})
    key = account.post("/v1/api-keys", {"name": HOSTILE, "scopes": ["read"]})
    assert key["name"] == HOSTILE
    with browser(account.http.app, account.database, "owner") as owner:
        for path in (
            "/console/datasets",
            f"/console/datasets/{dataset}",
            "/console/models",
            f"/console/models/{named}",
        ):
            page = owner.open(path)
            assert inert(page, HOSTILE), path
            assert f"<bdi>{'&#34;&gt;&lt;script'}" in page.source, path
        assert inert(owner.open("/console/settings"), HOSTILE)
        for path in ("/console", f"/console/requests/{request_id}"):
            page = owner.open(path)
            assert inert(page, reason), path
            assert 'class="long"' in page.source, path
        typed = "<script>" + "a" * 10_000
        form = owner.open("/console/models/new").form("/console/models")
        refused = owner.send(form, 422, name=typed)
        assert inert(refused, "at most 200 characters")
        assert refused.form("/console/models").fields["name"] == typed


def test_forms_that_are_too_large_or_no_forms_are_refused_in_words(account: Account, officer: Browser) -> None:
    csrf = officer.open("/console").form("/sign-out").fields["csrf"]
    many = {f"f{number}": "x" for number in range(600)} | {"csrf": csrf}
    assert officer.send(Form("/console/requests", many), 413).has("too many fields")
    reply = officer.http.post("/console/requests", content=b"\xff\xfe" * 10)
    assert reply.status_code == 413
    officer.open("/console/requests/del_wrong", 404)
    officer.open("/console/requests/new/x/y", 404)


# -- the settings ----------------------------------------------------------------------------------


def test_an_owner_makes_rotates_and_revokes_keys(account: Account) -> None:
    with browser(account.http.app, account.database, "owner") as owner:
        page = owner.open("/console/settings")
        made = owner.send(page.form("/settings/keys"), **{"name": "ci", "scope-operate": "on", "days": "30"})
        token = re.search(r"lethe_[\w-]+", made.source)
        assert token is not None
        assert account.http.get("/v1/models", headers={"Authorization": f"Bearer {token[0]}"}).status_code == 200
        (key,) = (row for row in account.get("/v1/api-keys")["items"] if row["name"] == "ci")
        assert (key["scopes"], key["expires_at"] is not None) == (["read", "operate"], True)
        assert token[0] not in owner.open("/console/settings").source
        rotated = owner.send(owner.open("/console/settings").form(f"{key['id']}/rotate"))
        new = re.search(r"lethe_[\w-]+", rotated.source)
        assert new is not None
        assert account.http.get("/v1/models", headers={"Authorization": f"Bearer {token[0]}"}).status_code == 401
        newest = account.get("/v1/api-keys")["items"][0]["id"]
        owner.send(owner.open("/console/settings").form(f"{newest}/revoke"))
        assert account.http.get("/v1/models", headers={"Authorization": f"Bearer {new[0]}"}).status_code == 401


# -- the legal life --------------------------------------------------------------------------------


def test_an_officers_case_from_the_letter_to_the_notice(shared: Trained, officer: Browser) -> None:
    at = next(unused)
    form = officer.open("/console/requests/new").form("/console/requests")
    typed = {"dataset": shared.dataset, "by": "ids", "who": shared.ids[at], "law": "gdpr", "ground": "17(1)(b)"}
    made = officer.send(form, **typed, reference="T-17 <b>")
    for said in ("17(1)(b): consent taken back", "T-17 <b>", "History"):
        assert made.has(said), said
    path = next(form.action for form in made.forms if form.action.endswith("/notices"))
    listed = officer.send(made.form("/notices"), kind="acknowledgement", language="de")
    assert listed.has("not yet")
    notice = re.findall(rf'href="({path}/ntc_\w+)"', listed.source)[0]
    letter = officer.open(notice)
    assert officer.http.get(f"{notice}/pdf").content.startswith(b"%PDF")
    officer.send(letter.form("/sent"), how="post")
    request = path.removesuffix("/notices")
    (sent,) = shared.account.get(f"/v1/deletion-requests/{request.rpartition('/')[2]}/notices")["notices"]
    assert (sent["language"], sent["sent_how"]) == ("de", "post")
    until = f"{datetime.now(UTC) + timedelta(days=20):%Y-%m-%d}"
    assert officer.send(officer.open(request).form("/identity"), until=until).has("The proof of identity is noted.")
    assert officer.open(request).has("Identity asked, waited for until")
    shown = officer.send(officer.open(request).form("/identity"), note="passport")
    assert shown.has("Identity confirmed")
    refused = officer.send(officer.open(request).form("/refuse"), reason="A claim.", ground="17(3)(e)")
    assert refused.has("17(3)(e): legal claims")
    assert refused.has("officer")  # who decided
    assert officer.open("/console/requests?show=refused").has("T-17 <b>")


def test_a_refusal_waits_for_a_second_person(shared: Trained, officer: Browser, request_id: str) -> None:
    account = shared.account
    rules = account.get("/v1/compliance/rules")
    account.http.put("/v1/compliance/rules", json=rules | {"two_people_on_refusal": True})
    try:
        path = f"/console/requests/{request_id}"
        proposed = officer.send(officer.open(path).form("/refuse"), reason="A claim.", ground="")
        assert proposed.has("A refusal waits for its second person")
        own = officer.http.post(
            proposed.form("/approve").action, data=proposed.form("/approve").fields, follow_redirects=False
        )
        assert own.status_code in (403, 409)  # the same person, in this session or in another
        with browser(account.http.app, account.database, "owner") as other:
            assert other.send(other.open(path).form("/approve")).has("The refusal is approved.")
        assert account.get(f"/v1/deletion-requests/{request_id}")["status"] == "refused"
    finally:
        account.http.put("/v1/compliance/rules", json=rules)


def test_only_a_line_feed_ends_a_name(officer: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    async def send(_self: Api, _method: str, _path: str, body: Any = None, **_: Any) -> Any:
        sent.append(body)
        return {"held": [], "erased": [], "not_read": []}

    form = officer.open("/console/requests/find").form("/find")
    monkeypatch.setattr(Api, "send", send)
    officer.send(form, subjects="Anna\u2028Bob\r\nCarl\x0cDora\n\n")
    assert sent == [{"subjects": ["Anna\u2028Bob", "Carl\x0cDora"]}]


def test_people_are_found_over_all_datasets(shared: Trained, officer: Browser) -> None:
    page = officer.send(officer.open("/console/requests/find").form("/find"), subjects="nobody <i>\n")
    assert page.has("Nothing.")
    assert page.form("/find").fields["subjects"].strip() == "nobody <i>"


# -- dates and what is owed ------------------------------------------------------------------------


def test_copies_go_on_days_of_the_law_which_are_not_after_the_due_date(shared: Trained, forgotten: str) -> None:
    """As read in Berlin: due on 30 December, and the reference models "31 Dec, 00:59" after it."""
    request = shared.account.get(f"/v1/deletion-requests/{forgotten}")
    [last] = {row["due_at"] for row in request["receipts"] if row["subject"] == "reference-pool" and row["due_at"]}
    assert last == request["due_at"]
    with browser(shared.account.http.app, shared.account.database, "owner") as found:
        found.http.cookies.set("lethe-zone", "Asia/Tokyo")  # where the last second of a UTC day is the next day
        day = datetime.fromisoformat(last).strftime("%-d %b %Y")
        assert found.open(f"/console/requests/{forgotten}").source.count(f">{day}</time>") >= 3
        assert f">{day}</time>" in found.open("/console/evidence").source
        shown = words.Clock("Asia/Tokyo").day(last)
        for path in (f"/console/requests/{forgotten}", "/console/evidence"):
            assert str(shown) not in found.open(path).source


def test_the_most_urgent_rows_come_first_however_many_there_are(
    shared: Trained, forgotten: str, officer: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As read: receipts to confirm were looked for among the first fifty open requests only."""
    monkeypatch.setattr("app.console.today.MOST", 1)
    made = shared.delete(shared.ids[250:251], jurisdiction="ccpa")["id"]
    page = officer.open("/console")
    assert page.has("Receipt to confirm")
    assert f'/requests/{made}"' in page.source
    assert made in officer.open("/console/requests?show=to-confirm").source
    officer.send(officer.open(f"/console/requests/{made}").form("/confirm"))
    assert made not in officer.open("/console/requests?show=to-confirm").source
    assert shared.account.get("/v1/deletion-requests", confirm_pending=True)["items"] == []


def test_a_fulfilled_request_without_a_letter_is_on_today(shared: Trained, forgotten: str, officer: Browser) -> None:
    account = shared.account
    assert officer.open("/console").has("Fulfilled without a letter sent")
    assert forgotten in officer.open("/console/requests?show=to-answer").source
    before = [row["id"] for row in account.get("/v1/deletion-requests", answer_missing=True)["items"]]
    at = f"/v1/deletion-requests/{forgotten}/notices"
    letter = account.post(at, {"kind": "completion"})["id"]
    account.post(f"{at}/{letter}:sent", {"how": "letter"})
    after = [row["id"] for row in account.get("/v1/deletion-requests", answer_missing=True)["items"]]
    assert [each for each in before if each not in after] == [forgotten]


def test_receipts_are_listed_by_their_date_page_by_page(shared: Trained, forgotten: str) -> None:
    with browser(shared.account.http.app, shared.account.database, "auditor") as auditor:
        assert auditor.open("/console/evidence").has("Copies that are left")
    seen: list[str] = []
    token = None
    while True:
        found = shared.account.get("/v1/receipts", done=False, dated=True, page_size=1, page_token=token)
        seen += [row["due_at"] for row in found["items"]]
        token = found["next_page_token"]
        if token is None:
            break
    assert seen == sorted(seen)
    assert None not in seen
    rest = shared.account.get("/v1/receipts", done=False, dated=False)["items"]
    every = shared.account.get("/v1/receipts", done=False)["items"]
    assert len(seen) + len(rest) == len(every)


def test_audits_of_every_model_are_on_a_page_and_two_of_them_side_by_side(shared: Trained, forgotten: str) -> None:
    account = shared.account
    with browser(account.http.app, account.database, "auditor") as auditor:
        page = auditor.open("/console/audits")
        assert f'/models/{shared.model}/versions/2"' in page.source
        assert f'/models/{shared.model}/compare?a=1&b=2"' in page.source
        assert 'aria-current="page">Audits' in page.source
        both = auditor.open(f"/console/models/{shared.model}/compare?a=2&b=2")
        assert both.has("Differences")
        assert both.has("+0.000")
        assert both.has("+0.0 points")
        assert auditor.open(f"/console/models/{shared.model}/compare?a=1&b=2").has("no audit report")


def test_evidence_has_every_entry_receipt_and_head(
    shared: Trained, forgotten: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.console.figures.LATEST", 3)
    account = shared.account
    case_of(account, forgotten)  # the log has a head then
    with browser(account.http.app, account.database, "auditor") as auditor:
        page = auditor.open("/console/evidence")
        assert page.has("Erased, with receipts")
        assert page.has("The head as a file")
        seen: list[str] = []
        while True:
            seen += re.findall(r'<tr><td class="num">(\d+)</td>', page.source)
            earlier = re.search(r'href="(/console/evidence\?leaf=\d+)" rel="next"', page.source)
            if earlier is None:
                break
            page = auditor.open(earlier[1])
        assert [int(each) for each in seen] == list(range(int(seen[0]), -1, -1))
        auditor.open("/console/evidence?leaf=none")
        auditor.open("/console/evidence?leaf=0")


def test_a_comparison_is_called_that_and_is_not_offered_to_be_promoted(shared: Trained, forgotten: str) -> None:
    account = shared.account

    def change(origin: str, state: str) -> None:
        with account.database.write() as session:
            these = (Version.model_id == shared.model, Version.number == 2)
            session.execute(update(Version).where(*these).values(origin=origin, state=state))

    was = account.get(f"{shared.where}/versions/2")
    change("comparison", "candidate")
    try:
        with browser(account.http.app, account.database, "engineer") as engineer:
            page = engineer.open(f"/console/models/{shared.model}")
            assert page.has("Only to compare")
            offered = page.source.partition('id="promote-version"')[2].partition("</select>")[0]
            assert "<option>2</option>" not in offered
            assert engineer.open(f"/console/models/{shared.model}/versions/2").has("It is never published.")
    finally:
        change(was["origin"], was["state"])


def test_people_who_were_found_begin_a_request(officer: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"samples": 3, "requested": 0, "models": {}, "requests": {}, "dataset": "dst_1", "name": "Faces <b>"}
    found = {
        "held": [row | {"subject": 0}, row | {"subject": 1, "requested": 3}, row | {"subject": 2}],
        "erased": [],
        "not_read": [],
    }

    async def send(*_: Any, **__: Any) -> Any:
        return found

    form = officer.open("/console/requests/find").form("/find")
    with monkeypatch.context() as patched:
        patched.setattr(Api, "send", send)
        page = officer.send(form, subjects="Anna\nBob\nCarl")
    begin = page.form("/begin")
    assert begin.fields["who"].splitlines() == ["Anna", "Carl"]
    assert page.has("Forget 2 people in Faces <b>")
    new = officer.send(begin, who="Anna\nCarl")
    assert new.title == "New request · Lethe"
    assert new.form("/console/requests").fields["who"].split() == ["Anna", "Carl"]
    assert "/console/requests/find" in officer.open("/console/requests/new").source
    nothing = officer.send(officer.open("/console/requests/find").form("/find"), subjects="digit-00001")
    assert nothing.has("ids of samples are no people")


def test_a_letter_without_a_sender_says_so_before_it_is_sent(shared: Trained, forgotten: str, officer: Browser) -> None:
    account, at = shared.account, f"/v1/deletion-requests/{forgotten}/notices"
    letter = account.post(at, {"kind": "acknowledgement", "language": "de"})
    page = officer.open(f"/console/requests/{forgotten}/notices/{letter['id']}")
    assert page.has("The letter does not say who you are.")
    day = datetime.now(UTC)
    assert re.search(rf"{day.day}\. [A-ZÄ][a-zä]+ {day.year}", letter["body"])
    before = account.get("/v1/compliance/rules")
    account.http.put("/v1/compliance/rules", json={**before, "controller": "We", "contact": "us@example.org"})
    assert not officer.open(f"/console/requests/{forgotten}/notices/{letter['id']}").has("does not say who you are")
    account.http.put("/v1/compliance/rules", json=before)
