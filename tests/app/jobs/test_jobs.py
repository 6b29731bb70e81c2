"""Jobs through the API: lists, pages, cancel, retry, and the event stream."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app import jobs
from app.api.http.event_stream import Event, Follower
from app.core.tables import Job
from app.rules.states import JobState
from tests.helpers import as_other, is_problem
from tests.support import QUICK_MODEL, Account, Document, eventually
from tests.trained import Trained


def walk(account: Account, path: str, **params: Any) -> list[Document]:
    items: list[Document] = []
    while True:
        page = account.get(path, **params)
        assert len(page["items"]) <= params["page_size"]
        items += page["items"]
        if page["next_page_token"] is None:
            return items
        params["page_token"] = page["next_page_token"]


# -- lists -----------------------------------------------------------------------------------------


def test_pages_walk_over_everything_once(shared: Trained) -> None:
    account = shared.account
    for _ in range(5):
        account.model(shared.dataset, train=False)
    for path in ("/v1/models", "/v1/jobs", "/v1/datasets"):
        whole = walk(account, path, page_size=1000)
        by_two = walk(account, path, page_size=2)
        assert by_two == whole
        ids = [item["id"] for item in whole]
        assert ids == sorted(ids, reverse=True), "newest first"
        assert len(set(ids)) == len(ids) > 0
    samples = f"/v1/datasets/{shared.dataset}/samples"
    whole = walk(account, samples, page_size=1000)
    assert len(whole) == account.get(f"/v1/datasets/{shared.dataset}")["samples"]
    assert walk(account, samples, page_size=333) == whole
    train = walk(account, samples, page_size=100, split="train")
    assert [item["id"] for item in train] == shared.ids
    held = walk(account, samples, page_size=1000, split="holdout")
    assert {item["split"] for item in held} == {"holdout"}
    assert len(train) + len(held) == len(whole)


def test_rows_made_while_somebody_pages_disturb_nothing(shared: Trained) -> None:
    account = shared.account
    for _ in range(4):
        account.model(shared.dataset, train=False)
    first = account.get("/v1/models", page_size=2)
    expected = [item["id"] for item in account.get("/v1/models", page_size=4)["items"]]
    new = account.model(shared.dataset, train=False)["id"]
    second = account.get("/v1/models", page_size=2, page_token=first["next_page_token"])
    assert [item["id"] for item in first["items"] + second["items"]] == expected
    assert new not in expected


def test_a_page_token_is_good_for_its_list_its_filters_and_its_tenant(shared: Trained) -> None:
    account = shared.account
    for _ in range(3):
        account.model(shared.dataset, train=False)
    token = account.get("/v1/models", page_size=1)["next_page_token"]
    jobs_token = account.get("/v1/jobs", page_size=1, kind="train", state="succeeded")["next_page_token"]
    samples = account.get(f"/v1/datasets/{shared.dataset}/samples", page_size=1)["next_page_token"]
    assert jobs_token is None, "there is one such job"
    http, theirs = account.http, as_other(account)
    tampered = ("A" if token[0] != "A" else "B") + token[1:]
    for path, params, headers in (
        ("/v1/jobs", {"page_token": token}, {}),
        ("/v1/models", {"page_token": samples}, {}),
        ("/v1/models", {"page_token": token, "architecture": "vit"}, {}),
        (f"/v1/datasets/{shared.dataset}/samples", {"page_token": samples, "split": "train"}, {}),
        (f"/v1/datasets/{shared.dataset}/samples", {"page_token": token}, {}),
        ("/v1/models", {"page_token": token}, theirs),
        ("/v1/models", {"page_token": tampered}, {}),
        ("/v1/models", {"page_token": token[:-2]}, {}),
        ("/v1/models", {"page_token": "x"}, {}),
        ("/v1/models", {"page_token": "é✓"}, {}),
        ("/v1/models", {"page_token": "%00"}, {}),
    ):
        is_problem(http.get(path, params=params, headers=headers), 422, "page-token")
    assert http.get("/v1/models", params={"page_token": token, "page_size": 3}).status_code == 200, "of another size"


def test_filters(trained: Trained) -> None:
    account = trained.account
    other = account.model(trained.dataset)["id"]

    def found(**params: str) -> set[tuple[str, str]]:
        return {(job["kind"], job["state"]) for job in account.get("/v1/jobs", **params)["items"]}

    account.post(f"/v1/models/{other}:precompute", {})
    assert found(model=other) == {("train", "succeeded"), ("precompute", "queued")}
    assert found(model=other, state="queued") == {("precompute", "queued")}
    assert found(kind="ingest") == {("ingest", "succeeded")}
    assert found(kind="purge") == set()
    assert found(model="mdl_" + "0" * 26) == set()


# -- cancel and retry ------------------------------------------------------------------------------


def test_a_queued_job_is_cancelled_at_once(trained: Trained) -> None:
    account = trained.account
    job = account.post(f"{trained.where}:precompute", {})["id"]
    assert account.post(f"/v1/jobs/{job}:cancel")["state"] == "cancelled"
    is_problem(account.http.post(f"/v1/jobs/{job}:cancel"), 409, "illegal-move")
    is_problem(account.http.post(f"/v1/jobs/{job}:retry"), 409, "illegal-move")
    account.work()
    assert account.get(f"/v1/jobs/{job}")["attempts"] == 0


def test_a_job_that_carries_deletions_out_is_owed(trained: Trained) -> None:
    made = trained.delete(trained.ids[:3])
    job = made["outcomes"][0]["job"]
    is_problem(trained.account.http.post(f"/v1/jobs/{job}:cancel"), 409, "conflict")
    assert trained.request(made)["status"] == "processing"


def test_a_running_job_is_asked_to_stop_and_the_worker_obeys(trained: Trained) -> None:
    from worker.run_one import run_one
    from worker.runtime.run import Resources

    account = trained.account
    policy = {"attack": {"name": "pgd_l2", "params": {"steps": 1000, "max_doublings": 30, "batch_size": 1}}}
    body = {
        "name": "long",
        "dataset": trained.dataset,
        **QUICK_MODEL,
        "recipe": {"name": "sgd", "params": {"epochs": 10_000}},
        "policy": policy,
    }
    model = account.post("/v1/models", body)["id"]
    job = account.post(f"/v1/models/{model}:train", {})["id"]
    resources = Resources.open(account.settings.model_copy(update={"lease_seconds": 3.0}))
    worker = threading.Thread(target=run_one, args=(resources, "tester"))
    worker.start()
    try:
        eventually(lambda: account.get(f"/v1/jobs/{job}")["fraction"] > 0, "the job to run")
        found = account.post(f"/v1/jobs/{job}:cancel")
        assert found["state"] == "running"
        assert account.post(f"/v1/jobs/{job}:cancel")["state"] == "running", "again is no error"
    finally:
        worker.join(60)
    assert not worker.is_alive()
    resources.close()
    found = account.get(f"/v1/jobs/{job}")
    assert (found["state"], found["problem"]["detail"]) == ("cancelled", "cancelled on request")
    assert account.get(f"/v1/models/{model}")["current_version"] is None


def end(trained: Trained, job: str, state: JobState) -> None:
    """Let a worker claim the job and end it so."""
    with trained.account.database.write() as session:
        row = session.get_one(Job, job)
        row.state, row.attempts = JobState.RUNNING, 3
        jobs.finish(session, row, state, problem=jobs.problem("made-up", "it was made to fail"))


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.DEAD, JobState.REJECTED])
def test_a_failed_job_can_be_tried_again_and_its_request_goes_on(trained: Trained, state: JobState) -> None:
    account = trained.account
    made = trained.delete(trained.ids[:3])
    job = made["outcomes"][0]["job"]
    is_problem(account.http.post(f"/v1/jobs/{job}:retry"), 409, "illegal-move")  # it is queued
    end(trained, job, state)
    found = trained.request(made)
    assert (found["status"], found["outcomes"][0]["reason"]) == ("needs-attention", "it was made to fail")
    is_problem(account.http.post(f"/v1/jobs/{job}:cancel"), 409, "illegal-move")
    again = account.post(f"/v1/jobs/{job}:retry")
    assert (again["state"], again["attempts"], again["problem"]) == ("queued", 0, None)
    assert trained.request(made)["status"] == "processing"
    account.work()
    assert trained.request(made)["status"] == "fulfilled"
    is_problem(account.http.post(f"/v1/jobs/{job}:retry"), 409, "illegal-move")


@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.CANCELLED])
def test_a_job_that_ended_for_good_is_not_tried_again(trained: Trained, state: JobState) -> None:
    job = trained.account.post(f"{trained.where}:precompute", {})["id"]
    end(trained, job, state)
    is_problem(trained.account.http.post(f"/v1/jobs/{job}:retry"), 409, "illegal-move")
    is_problem(trained.account.http.post(f"/v1/jobs/{job}:cancel"), 409, "illegal-move")


# -- events ----------------------------------------------------------------------------------------


def read(text: str) -> list[tuple[int, str, Document]]:
    """Events of a whole stream: number, kind, data."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and line[0] != ":")
        if "data" in fields:
            found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return found


def stream(account: Account, job: str, after: int | None = None) -> list[tuple[int, str, Document]]:
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    response = account.http.get(f"/v1/jobs/{job}/events", headers=headers)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    return read(response.text)


def test_the_history_of_an_ended_job_from_any_point(trained: Trained) -> None:
    account = trained.account
    job = account.get("/v1/jobs", kind="train")["items"][0]["id"]
    whole = stream(account, job)
    numbers = [number for number, _, _ in whole]
    assert numbers == sorted(set(numbers))
    assert whole[0][2]["state"] == "queued"
    assert (whole[-1][1], whole[-1][2]["state"]) == ("state", "succeeded")
    for place in range(len(whole)):
        assert stream(account, job, numbers[place]) == whole[place + 1 :]
    assert stream(account, job, numbers[-1] + 1000) == []


def test_a_job_is_followed_live_to_its_end_and_a_dropped_stream_is_taken_up(trained: Trained) -> None:
    account = trained.account
    job = account.post(f"{trained.where}:train", {"seed": 2})["id"]
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(stream, account, job)
        later = pool.submit(stream, account, job, 0)
        subscribed(trained, job, 2)
        account.work()
        whole = first.result(20)
        assert later.result(20) == whole
    assert whole[-1][2]["state"] == "succeeded"
    assert whole == stream(account, job)
    cut = whole[len(whole) // 2][0]
    assert stream(account, job, cut) == [event for event in whole if event[0] > cut]


def subscribed(trained: Trained, job: str, count: int) -> None:
    follower = trained.account.http.app.state.follower  # type: ignore[attr-defined]
    eventually(lambda: len(follower._followed.get(job, ())) == count, "the streams to begin")


def test_a_job_that_was_tried_again_is_followed_to_its_last_end(trained: Trained) -> None:
    account = trained.account
    job = trained.delete(trained.ids[:3])["outcomes"][0]["job"]
    end(trained, job, JobState.FAILED)
    assert stream(account, job)[-1][2]["state"] == "failed"
    account.post(f"/v1/jobs/{job}:retry")
    account.work()
    states = [data["state"] for _, _, data in stream(account, job)]
    assert "failed" in states
    assert states[-1] == "succeeded"


def test_a_refusal_comes_before_the_stream(shared: Trained) -> None:
    http = shared.account.http
    is_problem(http.get("/v1/jobs/job_" + "0" * 26 + "/events"), 404, "not-found")
    job = shared.account.get("/v1/jobs")["items"][0]["id"]
    is_problem(http.get(f"/v1/jobs/{job}/events", headers={"Authorization": ""}), 401, "unauthorized")
    for number in ("-1", "x", "1.5", str(2**63), ""):
        response = http.get(f"/v1/jobs/{job}/events", headers={"Last-Event-ID": number})
        assert response.status_code == 422, number


def test_a_subscriber_that_comes_during_a_round_misses_nothing(shared: Trained) -> None:
    """The round read after event 10; meanwhile somebody subscribed who has seen 8: 9 and 10 must still come."""
    portal = shared.account.http.portal
    assert portal is not None
    events = {number: Event(number, "job_x", "progress", {}) for number in (9, 10, 11)}
    stored = {8}

    class Fake(Follower):
        def _load(self, positions: dict[str, int]) -> list[Event]:
            return [events[n] for n in sorted(stored) if n in events and n > positions["job_x"]]

    async def play() -> list[int]:
        follower = Fake(shared.account.database, oldest=900.0)
        async with follower.subscribe("job_x", 10, ""), follower.subscribe("job_x", 8, "") as late:
            stored.update(events)
            follower._deliver({"job_x": 10}, [events[11]])  # what the round that began before brings
            asked = dict(follower._seen)
            follower._deliver(asked, follower._load(asked))
            return [late.get_nowait().number for _ in range(late.qsize())]

    assert portal.call(play) == [9, 10, 11]
