"""What an officer, an engineer and an owner do without a shell: papers, letters, a file that is checked, aliases, a
checkpoint, pictures. Each is one call of the API; refusals keep what was typed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy import delete, update

from app.console import charts, words
from app.console.canaries import by_version
from app.console.visit import lines_of
from app.core import keys
from app.core.tables import Job, JobEvent
from app.jobs import enqueue
from app.rules.states import JobKind, JobState
from tests.app.cases.sealed import case_of, parts, zipped
from tests.app.console.browsing import HOSTILE, Browser, Form, Page, browser, inert
from tests.helpers import is_problem
from tests.trained import Trained


@pytest.fixture
def who(shared: Trained) -> Iterator[dict[str, Browser]]:
    """A browser for each role."""
    app, database = shared.account.http.app, shared.account.database
    with (
        browser(app, database, "officer") as officer,
        browser(app, database, "engineer") as engineer,
        browser(app, database, "auditor") as auditor,
        browser(app, database, "owner") as owner,
    ):
        yield {"officer": officer, "engineer": engineer, "auditor": auditor, "owner": owner}


def put(browser: Browser, path: str, content: bytes, status: int, form: str = "application/octet-stream") -> Page:
    """As the page's script sends a file."""
    csrf = browser.open("/console").form("/sign-out").fields["csrf"]
    headers = {"X-CSRF-Token": csrf, "Content-Type": form, "HX-Request": "true"}
    response = browser.http.post(path, content=content, headers=headers)
    assert response.status_code == status, response.text
    return Page(response)


def test_what_came_with_a_case_is_attached_fetched_and_erased(shared: Trained, who: dict[str, Browser]) -> None:
    request = shared.delete(shared.ids[200:201])["id"]
    at, officer = f"/console/requests/{request}", who["officer"]
    put(officer, f"{at}/papers?kind=identity&name={'%3Cb%3E%E2%80%AE' + 'W' * 150}.pdf&once=1", b"%PDF-1", 204)
    put(officer, f"{at}/papers?kind=identity&name=again.pdf&once=1", b"%PDF-1", 422)
    (paper,) = shared.account.get(f"/v1/deletion-requests/{request}/papers")["papers"]
    assert (paper["kind"], paper["size"]) == ("identity", 6)
    page = officer.open(at)
    assert inert(page, "<b>")
    link = next(v["href"] for t, v in page.tags if t == "a" and v.get("href", "").endswith(paper["id"]))
    fetched = officer.http.get(link)
    assert fetched.content == b"%PDF-1"
    assert "attachment" in fetched.headers["content-disposition"]
    forged = officer.http.post(f"{at}/papers?name=x", content=b"x", headers={"X-CSRF-Token": "0"})
    assert forged.status_code == 403
    assert put(who["engineer"], f"{at}/papers?name=x", b"x", 403).has("scope request")
    assert put(officer, f"{at}/papers?kind=none&name=x", b"x", 422).has("schema")
    assert put(officer, f"{at}/papers?name=x", b"x" * (4 * 2**20 + 1), 413).has("4 MiB")
    assert not any(form.action.endswith("/remove") for form in who["auditor"].open(at).forms)
    officer.send(page.form(f"{paper['id']}/remove"))
    assert shared.account.get(f"/v1/deletion-requests/{request}/papers")["papers"] == []


def test_a_case_file_is_checked_in_the_page_as_the_verifier_does(shared: Trained, who: dict[str, Browser]) -> None:
    account = shared.account
    request = shared.forget(shared.ids[210:213])["id"]
    at, officer = f"/console/requests/{request}", who["officer"]
    assert officer.open(f"{at}/case-file", 404).has("Ask for the case file first")
    case = case_of(account, request)
    assert officer.http.get(f"{at}/case-file").content == case
    check = "/console/evidence/check"
    page = put(officer, check, case, 200, "application/zip")
    assert page.has("The case file is as this service has signed it.")
    assert page.has("What this does not prove")
    found = parts(case)
    tampered = put(officer, check, zipped(found | {"case.pdf": b"%PDF other"}), 200, "application/zip")
    assert tampered.has("Not verified")
    assert tampered.has("case.pdf not verified is not the part that was signed")
    theirs = put(officer, check, zipped(found | {"<script>.txt": b""}), 200, "application/zip")
    assert not [tag for tag, _ in theirs.tags if tag == "script"]
    certificate = put(officer, check, found["certificate.json"], 200, "application/json")
    assert certificate.has("The certificate is as this service has signed it.")
    assert put(officer, check, b"PK\x03\x04 no zip", 200, "application/zip").has("Not verified")
    assert put(officer, check, case, 415, "text/plain").has("application/zip")
    assert put(who["engineer"], check, case, 403, "application/zip").has("scope audit")
    is_problem(account.http.post("/v1/case-files:verify", content=b"", headers={"Content-Type": "application/zip"}),
               422, "empty-body")  # fmt: skip


def test_an_owner_changes_rules_and_letters_and_the_others_read_them(shared: Trained, who: dict[str, Browser]) -> None:
    account, owner = shared.account, who["owner"]
    before = account.get("/v1/compliance/rules")
    page = owner.open("/console/settings/rules")
    assert page.has("What the dates cost")
    assert page.has("folds")
    [pool] = account.get("/v1/compliance/remains")["pools"]
    assert pool["hours"] is None or page.has("Built anew in")
    done = owner.send(page.form("/rules"), controller=HOSTILE, authority="BayLDA", keep_months="36", language="de")
    assert done.has("The rules are changed.")
    assert done.form("/rules").fields["controller"] == HOSTILE
    after = account.get("/v1/compliance/rules")
    assert (after["controller"], after["keep_months"], after["language"]) == (HOSTILE, 36, "de")
    assert after["remains"] == before["remains"]
    wrong = owner.send(page.form("/rules"), 422, keep_months="soon", authority="Nobody")
    assert wrong.form("/rules").fields["keep_months"] == "soon"
    assert account.get("/v1/compliance/rules")["authority"] == "BayLDA"
    for role in ("officer", "auditor"):
        shown = who[role].open("/console/settings/rules")
        assert inert(shown, HOSTILE)
        assert {form.action for form in shown.forms} == {"/console/sign-out"}
    csrf = {"csrf": who["officer"].open("/console").form("/sign-out").fields["csrf"]}
    assert who["officer"].send(Form("/console/settings/rules", csrf), 403, keep_months="1").has("scope admin")
    who["engineer"].open("/console/settings/rules", 403)

    letter = "/console/settings/letters/refusal/en"
    kept = owner.send(owner.open(letter).form("/refusal/en"), 422, subject="No", body="Dear {{nobody}}")
    assert kept.form("/refusal/en").fields["body"] == "Dear {{nobody}}"
    owner.send(owner.open(letter).form("/refusal/en"), subject="No", body="Dear you,\r\n{{reason}}")
    said = account.get("/v1/compliance/templates/refusal/en")
    assert (said["subject"], said["body"]) == ("No", "Dear you,\n{{reason}}")
    assert who["auditor"].open(letter).has("{{reason}}")
    assert owner.send(owner.open(letter).form("/drop")).has("The text that comes with the service.")
    owner.open("/console/settings/letters/none/en", 404)
    account.http.put("/v1/compliance/rules", json=before)


@pytest.mark.validation
def test_two_tabs_that_change_rules_or_a_letter_do_not_undo_each_other(
    shared: Trained, who: dict[str, Browser]
) -> None:
    account, owner = shared.account, who["owner"]
    before = account.get("/v1/compliance/rules")
    letter = "/console/settings/letters/extension/fr"
    for at, end, path, name in (
        ("/console/settings/rules", "/rules", "/v1/compliance/rules", "authority"),
        (letter, "/extension/fr", "/v1/compliance/templates/extension/fr", "subject"),
    ):
        first, second = owner.open(at), owner.open(at)
        owner.send(first.form(end), **{name: "Ada was here"})
        refused = owner.send(second.form(end), 412, **{name: "Bob"})
        assert refused.has("Somebody has changed this")
        assert refused.form(end).fields[name] == "Bob"
        assert account.get(path)[name] == "Ada was here"
        owner.send(refused.form(end))
        assert account.get(path)[name] == "Bob"
        etag = account.http.get(path).headers["etag"]
        sent = before if end == "/rules" else {"subject": "", "body": ""}
        body = {member: value for member, value in account.get(path).items() if member in sent}
        assert account.http.put(path, json={**body, name: "C"}, headers={"If-Match": etag}).status_code == 200
        is_problem(account.http.put(path, json=body, headers={"If-Match": etag}), 412, "precondition-failed")
    is_problem(account.http.delete(path, headers={"If-Match": etag}), 412, "precondition-failed")
    account.http.put("/v1/compliance/rules", json=before)


def test_an_alias_is_set_and_removed(shared: Trained, who: dict[str, Browser]) -> None:
    path, engineer = f"/console/models/{shared.model}", who["engineer"]
    page, current = engineer.open(path), shared.account.get(shared.where)["current_version"]
    done = engineer.send(page.form("/aliases"), alias="production", version=str(current))
    assert done.has("The alias is changed.")
    assert shared.account.get(f"{shared.where}/aliases/production")["version"] == current
    kept = engineer.send(page.form("/aliases"), 422, alias="No good", version=str(current))
    assert kept.form("/aliases").fields["alias"] == "No good"
    engineer.send(engineer.open(path).form("/production/drop"))
    shared.account.get(f"{shared.where}/aliases/production", 404)
    assert not any(form.action.endswith("/aliases") for form in who["auditor"].open(path).forms)


def test_a_checkpoint_is_announced_and_then_sent(shared: Trained, who: dict[str, Browser]) -> None:
    account, engineer = shared.account, who["engineer"]
    model = account.model(shared.dataset, train=False)["id"]
    page = engineer.open(f"/console/models/{model}")
    kept = engineer.send(page.form("/import"), 422, digest="no digest")
    assert kept.form("/import").fields["digest"] == "no digest"
    digest = hashlib.sha256(b"weights").hexdigest()
    ids = "\r\n".join(shared.ids[400:410])
    version = engineer.send(page.form("/import"), digest=digest.upper(), samples=ids)
    assert version.has("Trained on 10 samples")
    assert version.has("Send the checkpoint")
    (upload,) = (values for tag, values in version.tags if "data-upload" in values)
    csrf = {"X-CSRF-Token": upload["data-csrf"], "Content-Type": "application/vnd.safetensors"}
    sent = engineer.http.put(upload["data-upload"], content=b"weights", headers=csrf)
    is_problem(sent, 422, "checkpoint-refused")
    assert account.get(f"/v1/models/{model}/versions/1")["digest"] == f"sha256:{digest}"
    assert not [v for _, v in who["auditor"].open(f"/console/models/{model}/versions/1").tags if "data-upload" in v]


def test_pictures_are_seen_by_who_may_see_them(shared: Trained, who: dict[str, Browser]) -> None:
    path = f"/console/datasets/{shared.dataset}"
    form = who["engineer"].open(path).form("/preview")
    page = who["engineer"].send(form, samples="\r\n".join(shared.ids[:2]))
    pictures = [values["src"] for tag, values in page.tags if tag == "img"]
    assert len(pictures) == 2
    assert pictures[0].startswith("data:image/png;base64,iVBOR")
    assert who["engineer"].send(form, 422, samples="nobody").form("/preview").fields["samples"] == "nobody"
    assert not any(each.action.endswith("/preview") for each in who["officer"].open(path).forms)
    csrf = {"csrf": who["officer"].open("/console").form("/sign-out").fields["csrf"]}
    assert who["officer"].send(Form(f"{path}/preview", csrf), 403, samples="x").has("scope samples")


def test_the_plan_of_an_audit_says_what_it_costs(shared: Trained, who: dict[str, Browser]) -> None:
    path = f"/console/models/{shared.model}/audit-plan"
    page = who["engineer"].open(f"{path}?samples=20&people=&margin=0,2")
    assert page.has("For a forget set of 20 samples, and a margin of 0.2.")
    assert page.has("A pool of reference models")
    who["engineer"].open(f"{path}?margin=many", 422)


def test_an_exact_retrain_is_started_while_the_samples_are_there(shared: Trained, who: dict[str, Browser]) -> None:
    request = shared.delete(shared.ids[230:231])["id"]
    path = f"/console/requests/{request}"
    job = who["engineer"].send(who["engineer"].open(path).form("/start/train"))
    assert job.title == "Train: Waiting · Lethe"
    assert not any(form.action.endswith("/start/train") for form in who["officer"].open(path).forms)


def test_audits_of_canaries_are_a_line_by_version(shared: Trained, who: dict[str, Browser]) -> None:
    part = who["engineer"].open(f"/console/models/{shared.model}")
    assert part.has("No version was audited on its canaries yet.")
    audit = {"of": "canaries", "sham": False, "version": 3, "candidate": {"ft_auc": {"value": 0.53}}}
    for report, wanted in (
        (audit, (3, 0.53)),
        (audit | {"of": "forget-set"}, None),
        (audit | {"sham": True}, None),
        (audit | {"candidate": {"ft_auc": None}}, None),
    ):

        async def find(_path: str, report: Any = report) -> Any:
            return {"report": report}

        async def get(_path: str, **_: Any) -> Any:
            return {"items": [{"id": "job_1"}]}

        api = cast("Any", SimpleNamespace(find=find, get=get))
        assert asyncio.run(by_version(api, "mdl_1")) == ([wanted] if wanted else [])
    picture = charts.canaries([(2, 0.6), (3, 0.53)])
    assert picture is not None
    assert "version 2: 0.6" in picture


def test_a_reference_finds_its_requests(shared: Trained, who: dict[str, Browser]) -> None:
    made = shared.delete(shared.ids[220:221], reference="Ticket & 17")["id"]
    page = who["officer"].open("/console/requests?show=all&reference=Ticket+%26+17")
    assert made in page.source
    assert "reference=Ticket%20%26%2017" in page.source  # kept by the tabs
    assert who["officer"].open("/console/requests?show=all&reference=none").has("None of these fits your filter.")


def test_names_are_one_in_each_line_without_a_mark_before_the_first() -> None:
    """As pasted from a file: editors put a byte order mark before its first line."""
    assert lines_of("\ufeffann\r\nb\u2028c\r\n\r\nd\re") == ["ann", "b\u2028c", "d\re"]


def test_a_job_says_when_its_requests_are_due_and_the_queue_begins_with_the_first(
    shared: Trained, who: dict[str, Browser]
) -> None:
    made = shared.delete(shared.ids[235:236])
    [job] = shared.account.get("/v1/jobs", request=made["id"])["items"]
    due = made["due_at"]
    assert (job["state"], job["due_at"] <= due) == ("queued", True)
    assert shared.account.get(f"/v1/jobs/{job['id']}")["due_at"] == job["due_at"]
    assert who["engineer"].open(f"/console/jobs/{job['id']}").has("Its requests are due from")
    assert who["engineer"].open("/console/jobs?show=queued").has("its requests are due from")
    with shared.account.database.write() as session:  # as it is later: a purge and a comparison of the request
        fields = {"tenant_id": keys.FIRST_TENANT, "dataset_id": shared.dataset}
        purge = enqueue(session, kind=JobKind.PURGE, lane="p", request_id=made["id"], **fields).id
        compare = {"exclude_request": made["id"]}
        comparison = enqueue(session, kind=JobKind.TRAIN, lane="c", params=compare, **fields).id
        plain = enqueue(session, kind=JobKind.TRAIN, lane="t", **fields).id
    listed = shared.account.get("/v1/jobs", state="queued", dated=True)["items"]
    assert [row["due_at"] for row in listed] == sorted(row["due_at"] for row in listed)
    assert {job["id"], purge, comparison} <= {row["id"] for row in listed}
    assert plain not in {row["id"] for row in listed}
    first = shared.account.get("/v1/jobs", state="queued", dated=True, page_size=1)
    second = shared.account.get(
        "/v1/jobs", state="queued", dated=True, page_size=1, page_token=first["next_page_token"]
    )
    assert [first["items"][0]["id"], second["items"][0]["id"]] == [row["id"] for row in listed[:2]]
    waiting = who["engineer"].open("/console/jobs?show=queued").source
    assert waiting.index(purge) < waiting.index("Without a date") < waiting.index(plain)
    with shared.account.database.write() as session:
        session.execute(delete(JobEvent).where(JobEvent.job_id.in_([purge, comparison, plain])))
        session.execute(delete(Job).where(Job.id.in_([purge, comparison, plain])))
    before = shared.account.http.get(f"/v1/jobs/{job['id']}").headers["etag"]
    shared.account.post(f"/v1/deletion-requests/{made['id']}:extend", {"reason": "Three hundred letters."})
    after = shared.account.http.get(f"/v1/jobs/{job['id']}", headers={"If-None-Match": before})
    assert after.status_code == (200 if job["due_at"] == due else 304)


def test_an_input_contract_is_set_and_shown(shared: Trained, who: dict[str, Browser]) -> None:
    engineer = who["engineer"]
    form = engineer.open("/console/models/new").form("/console/models")
    form.fields |= {"name": "n", "dataset": shared.dataset, "architecture": "small_cnn"}
    kept = engineer.send(form, 422, input="{no")
    assert kept.form("/console/models").fields["input"] == "{no"
    page = engineer.send(form, input='{"mean": [0.5], "std": [0.25]}')
    assert page.has('"mean": [')
    assert engineer.open(f"/console/models/{shared.model}").has("Input contract")


def test_a_table_of_requests_is_imported_row_by_row(shared: Trained, who: dict[str, Browser]) -> None:
    one, two, three = shared.ids[240:243]
    table = (
        f'\ufeffDataset;Sample ids;Jurisdiction;Reference\r\n{shared.dataset};"{one}\n{two}";gdpr:DE;Fall Ä\r\n'
        f"\r\n{shared.dataset};{three};nowhere;\r\n"
    )
    officer = who["officer"]
    csrf = officer.open("/console").form("/sign-out").fields["csrf"]
    headers = {"X-CSRF-Token": csrf, "Content-Type": "text/csv", "Idempotency-Key": "table-1", "HX-Request": "true"}
    answers = []
    for _ in range(2):  # sent twice, done once
        sent = officer.http.post("/console/requests/import", content=table.encode(), headers=headers)
        assert sent.status_code == 200, sent.text
        answers.append([json.loads(line) for line in sent.text.splitlines()])
    assert answers[0] == answers[1]
    good, bad = answers[0]
    assert (good["line"], good["status"], bad["line"], bad["status"]) == (1, 202, 3, 422)
    made = shared.account.get(f"/v1/deletion-requests/{good['id']}")
    assert (made["samples"], made["reference"], made["jurisdiction"]) == (2, "Fall Ä", "gdpr:DE")
    for wrong in (b"dataset,who\n", "dataset\n\u00e4".encode("latin-1")):
        refused = officer.http.post("/console/requests/import", content=wrong, headers=headers)
        assert refused.status_code == 422


def test_what_is_wrong_is_said_with_the_names_that_the_form_has() -> None:
    assert words.place("/subjects/0") == "Who or what, line 1"
    assert words.place("/policy/when") == "policy, when"
    assert words.labelled("needs `received_reason` or `other`") == "needs “Why it is entered later” or `other`"


def test_a_queued_job_is_cancelled_and_tried_again(shared: Trained, who: dict[str, Browser]) -> None:
    engineer = who["engineer"]
    made = engineer.send(engineer.open(f"/console/models/{shared.model}").form("/start/references"), count="4")
    at = next(form.action for form in made.forms if form.action.endswith("/cancel"))
    assert engineer.send(made.form("/cancel")).has("Cancelled")
    assert not any(form.action == at for form in engineer.open(at.removesuffix("/cancel")).forms)
    job = at.split("/")[3]
    with shared.account.database.write() as session:
        session.execute(update(Job).where(Job.id == job).values(state=JobState.FAILED))
    again = engineer.send(engineer.open(f"/console/jobs/{job}").form("/retry"))
    assert again.has("Waiting")
    engineer.send(again.form("/cancel"))
    assert not any(form.action.endswith("/cancel") for form in who["officer"].open(f"/console/jobs/{job}").forms)


def test_a_period_is_extended_and_a_webhook_lives_and_ends(shared: Trained, who: dict[str, Browser]) -> None:
    request = shared.delete(shared.ids[245:246])["id"]
    officer, owner, path = who["officer"], who["owner"], f"/console/requests/{request}"
    shown = officer.open(path)
    assert shown.has("12(3), complex: the request is complex")
    assert shown.has("17(3)(e): legal claims")
    assert officer.send(shown.form("/extend"), status=422).has("reason"), "neither a usual reason nor words"
    usual = "12(3), many: the number of the person's requests"
    done = officer.send(officer.open(path).form("/extend"), usual=usual, reason="Three hundred letters.")
    assert done.has("The law's longer period is taken.")
    assert done.has("Make and send the letter about the longer period")
    assert not any(form.action.endswith("/extend") for form in done.forms)

    page = owner.open("/console/settings")
    made = owner.send(page.form("/webhooks"), url="https://93.184.216.34/hook", events="request.*")
    first = re.search(r'class="secret">([^<]+)<', made.source)
    [hook] = shared.account.get("/v1/webhooks")["items"]
    at = f"/console/settings/webhooks/{hook['id']}"
    second = re.search(r'class="secret">([^<]+)<', owner.send(owner.open(at).form("/rotate")).source)
    assert first is not None
    assert second is not None
    assert first[1] != second[1]
    owner.send(owner.open(at).form("/disable"))
    assert not any(form.action.endswith("/disable") for form in owner.open(at).forms)


def test_a_version_is_promoted_and_rolled_back_as_far_as_the_rules_allow(
    shared: Trained, who: dict[str, Browser]
) -> None:
    engineer, path = who["engineer"], f"/console/models/{shared.model}"
    now = shared.account.get(shared.where)["current_version"]
    page = engineer.open(path)
    refused = engineer.send(page.form("/promote"), 409, version=str(now))
    assert refused.has("Not done")
    assert shared.account.get(shared.where)["current_version"] == now
    back = engineer.http.post(page.form("/roll-back").action, data=page.form("/roll-back").fields)
    assert back.status_code in (200, 409)  # the parent may hold samples that were requested
    csrf = {"csrf": who["officer"].open("/console").form("/sign-out").fields["csrf"]}
    for verb in ("promote", "roll-back"):
        assert who["officer"].send(Form(f"{path}/{verb}", csrf), 403, version="1").has("scope operate")
