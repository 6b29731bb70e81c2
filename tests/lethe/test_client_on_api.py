"""The client against the real API: replies that are lost after the commit, streams, files, pages."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import pytest

from app.core import db
from app.core.tables import JobEvent
from lethe import Client, JobFailedError, ProblemError, TransferError
from lethe.models import _form
from tests.app.datasets.test_uploads import columns, parquet
from tests.app.formats.archive_cases import png
from tests.helpers import PARQUET, counts, incoming
from tests.support import Account
from tests.trained import Trained


class Line(httpx.BaseTransport):
    """The way to the API in this process; loses the first `lost` replies of requests that `matches` picks."""

    def __init__(self, account: Account, matches: Callable[[httpx.Request], bool] = lambda _: False, lost: int = 0):
        self._http = account.http
        self._matches, self.lost = matches, lost
        self.replayed = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        sent = {name: value for name, value in request.headers.items() if name != "transfer-encoding"}
        reply = self._http.request(request.method, str(request.url), headers=sent, content=request.read())
        if self.lost and self._matches(request):
            self.lost -= 1
            raise httpx.ReadError("the reply was lost")
        self.replayed += reply.headers.get("idempotent-replayed") == "true"
        headers, stream = list(reply.headers.multi_items()), httpx.ByteStream(reply.content)
        return httpx.Response(reply.status_code, headers=headers, stream=stream)


Connect = Callable[..., tuple[Client, Line]]


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Connect:
    """A client by such a line."""
    monkeypatch.setattr("lethe.transport.time.sleep", lambda _: None)

    def open_client(account: Account, matches: Callable[[httpx.Request], bool] = lambda _: False, lost: int = 0):
        line = Line(account, matches, lost)
        key = account.settings.key_file.read_text().strip()
        return Client("http://testserver", key, transport=line), line

    return open_client


@pytest.mark.validation
def test_a_deletion_whose_reply_was_lost_is_one_deletion(trained: Trained, connect: Connect) -> None:
    lethe, line = connect(trained.account, lambda r: r.url.path == "/v1/deletion-requests" and r.method == "POST", 2)
    made = lethe.requests.create(trained.dataset, trained.ids[:3])
    assert line.replayed == 1
    assert [request["id"] for request in lethe.requests.list()] == [made["id"]]
    with pytest.raises(ProblemError) as refused:
        lethe.requests.create(trained.dataset, trained.ids[:3])
    assert refused.value.status == 409
    trained.account.work()
    assert lethe.requests.wait(made["id"])["status"] == "fulfilled"


def test_a_checkpoint_whose_reply_was_lost_is_imported_once(trained: Trained, connect: Connect, tmp_path: Path) -> None:
    lethe, _ = connect(trained.account, lambda r: r.method == "PUT" and r.url.path.endswith("/checkpoint"), 1)
    file = tmp_path / "v1.safetensors"
    digest = lethe.versions.download(trained.model, 1, file)
    assert digest == f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    source = lethe.models.get(trained.model)
    other = lethe.models.register("copy", trained.dataset, source["architecture"])
    job = lethe.versions.import_checkpoint(other["id"], file, "train-split")
    assert job["kind"] == "import"
    assert [found["id"] for found in lethe.jobs.list(model=other["id"], kind="import")] == [job["id"]]
    trained.account.work()
    assert lethe.jobs.wait(job["id"])["state"] == "succeeded"
    assert lethe.versions.get(other["id"], 1)["digest"] == digest
    assert incoming(trained.account.settings) == []


@pytest.mark.validation
def test_an_upload_whose_reply_was_lost_is_taken_in_once(account: Account, connect: Connect, tmp_path: Path) -> None:
    file = tmp_path / "data.parquet"
    file.write_bytes(parquet(columns()))
    lethe, _ = connect(account, lambda r: r.method == "PUT", 1)
    dataset = lethe.datasets.register("mine")
    sent = lethe.datasets.upload(dataset["id"], file)
    assert sent["job"]
    account.work()
    assert lethe.jobs.wait(sent["job"])["state"] == "succeeded"
    assert lethe.datasets.get(dataset["id"])["state"] == "ready"
    assert len(list(lethe.jobs.list(dataset=dataset["id"]))) == 1


@pytest.mark.validation
def test_many_lines_whose_reply_was_lost(trained: Trained, connect: Connect) -> None:
    lethe, _ = connect(trained.account, lambda r: r.url.path.endswith(":import"), 1)
    orders = [{"dataset": trained.dataset, "sample_ids": [sample]} for sample in [*trained.ids[:3], "nobody"]]
    before = counts(trained.account.database)["deletion_requests"]
    results = list(lethe.requests.import_lines(orders))
    assert [result["status"] for result in results] == [202, 202, 202, 422]
    assert counts(trained.account.database)["deletion_requests"] == before + 3


@pytest.mark.validation
def test_a_change_of_what_has_changed_meanwhile_is_refused(trained: Trained, connect: Connect) -> None:
    lethe, _ = connect(trained.account)
    model, etag = lethe.models.tagged(trained.model)
    lethe.models.set_policy(trained.model, model["policy"] | {"grace_seconds": 5}, if_match=etag)
    with pytest.raises(ProblemError) as refused:
        lethe.models.set_policy(trained.model, model["policy"], if_match=etag)
    assert (refused.value.status, refused.value.kind) == (412, "precondition-failed")
    assert lethe.models.get(trained.model)["policy"]["grace_seconds"] == 5

    lethe.models.set_alias(trained.model, "production", 1)
    alias, etag = lethe.models.tagged_alias(trained.model, "production")
    assert alias == lethe.models.alias(trained.model, "production")
    lethe.models.remove_alias(trained.model, "production", if_match=etag)


NEVER = '"of nothing that was ever read"'


@pytest.mark.validation
def test_every_conditional_call_carries_its_condition(trained: Trained, connect: Connect) -> None:
    lethe, _ = connect(trained.account)
    lethe.models.set_alias(trained.model, "production", 1)
    request = lethe.requests.create(trained.dataset, trained.ids[:2])
    job, key = str(request["outcomes"][0]["job"]), next(lethe.keys.list())["id"]
    hook = lethe.webhooks.create("https://8.8.8.8/x")["id"]
    calls = {
        "PUT /v1/models/{model}/policy": lambda: lethe.models.set_policy(trained.model, {}, if_match=NEVER),
        "PUT /v1/models/{model}/aliases/{alias}": lambda: lethe.models.set_alias(
            trained.model, "production", 1, if_match=NEVER
        ),
        "DELETE /v1/models/{model}/aliases/{alias}": lambda: lethe.models.remove_alias(
            trained.model, "production", if_match=NEVER
        ),
        "POST /v1/models/{model}/versions/{number}:promote": lambda: lethe.versions.promote(
            trained.model, 1, if_match=NEVER
        ),
        "POST /v1/jobs/{job}:cancel": lambda: lethe.jobs.cancel(job, if_match=NEVER),
        "POST /v1/jobs/{job}:retry": lambda: lethe.jobs.retry(job, if_match=NEVER),
        "DELETE /v1/webhooks/{webhook}": lambda: lethe.webhooks.disable(hook, if_match=NEVER),
        "DELETE /v1/api-keys/{api_key}": lambda: lethe.keys.revoke(key, if_match=NEVER),
    }
    calls["PUT /v1/compliance/rules"] = lambda: lethe.compliance.set_rules(lethe.compliance.rules(), if_match=NEVER)
    letter = "/v1/compliance/templates/{kind}/{language}"
    calls[f"PUT {letter}"] = lambda: lethe.compliance.set_template("refusal", "en", "No", "No", if_match=NEVER)
    calls[f"DELETE {letter}"] = lambda: lethe.compliance.drop_template("refusal", "en", if_match=NEVER)
    place = "POST /v1/deletion-requests/{request}"
    for verb in ("cancel", "hold", "extend", "refuse", "dismiss"):
        calls[f"{place}:{verb}"] = partial(getattr(lethe.requests, verb), request["id"], "a reason", if_match=NEVER)
    for verb in ("release", "approve", "confirm"):
        calls[f"{place}:{verb}"] = partial(getattr(lethe.requests, verb), request["id"], if_match=NEVER)
    calls[f"{place}:identity"] = lambda: lethe.requests.identity(request["id"], "confirmed", if_match=NEVER)
    calls[f"{place}:keep-remains"] = lambda: lethe.requests.keep_remains(
        request["id"], "2027-01-01", "a reason", if_match=NEVER
    )

    conditional = {
        f"{method.upper()} {path}"
        for path, item in lethe.get("/v1/openapi.json")["paths"].items()
        for method, operation in item.items()
        if any(parameter["name"].lower() == "if-match" for parameter in operation.get("parameters", []))
    }
    assert calls.keys() == conditional
    before = counts(trained.account.database)
    for name, call in calls.items():
        with pytest.raises(ProblemError) as refused:
            call()
        assert refused.value.status == 412, name
    assert counts(trained.account.database) == before


@pytest.mark.validation
def test_an_event_without_a_state_does_not_end_the_stream(account: Account, connect: Connect) -> None:
    """A lost lease is an event, too, and says no state."""
    dataset = account.post("/v1/datasets", {"name": "d", "source": {"name": "digits"}})
    with account.database.write() as session:
        now = db.now(session)
        session.add(JobEvent(job_id=dataset["job"], kind="lease-lost", data={"attempt": 1}, at=now))
    account.work()
    lethe, _ = connect(account)
    seen = list(lethe.jobs.follow(dataset["job"]))
    assert {"attempt": 1} in seen
    assert seen[-1]["state"] == "succeeded"


@pytest.mark.validation
def test_a_job_that_fails_is_told_with_its_problem(account: Account, connect: Connect) -> None:
    lethe, _ = connect(account)
    dataset = lethe.datasets.register("d", "digits")
    lethe.jobs.cancel(dataset["job"] or "")
    with pytest.raises(JobFailedError) as failed:
        lethe.jobs.wait(dataset["job"] or "")
    assert failed.value.job["state"] == "cancelled"


def parquet_of(path: Path, ids: list[str]) -> Path:
    path.write_bytes(parquet(columns(len(ids), id=ids)))
    return path


@pytest.mark.validation
def test_files_are_sent_as_shards_and_what_was_sent_is_not_sent_again(
    account: Account, connect: Connect, tmp_path: Path
) -> None:
    files = [parquet_of(tmp_path / f"{n}.parquet", [f"{n}-{row}" for row in range(20)]) for n in range(3)]
    lethe, line = connect(account, lambda r: r.method == "PUT", 1)  # the first reply is lost
    made = lethe.datasets.register("people")["id"]
    data = files[1].read_bytes()
    half = len(data) // 2
    headers = {"Content-Type": PARQUET, "Upload-Complete": "?0"}
    account.http.put(f"/v1/datasets/{made}/shards/1", content=data[:half], headers=headers)
    assert line.lost == 1
    sent = lethe.datasets.send(made, files[:2], files[2:])
    assert (sent["state"], line.lost) == ("ingesting", 0)
    shards = list(lethe.datasets.shards(made))
    assert [(shard["size"], shard["split"]) for shard in shards] == [
        (files[0].stat().st_size, None), (len(data), None), (files[2].stat().st_size, "holdout")
    ]  # fmt: skip
    account.work()
    found = lethe.datasets.get(made)
    assert (found["samples"], found["train_samples"]) == (60, 40)
    assert lethe.datasets.report(made)["splits"] == {"train": 40, "holdout": 20}
    assert len(lethe.datasets.preview(made, ["0-3"])) == 1
    assert lethe.datasets.erasable(made)["needed"] == []
    lethe.datasets.delete(made)
    assert lethe.datasets.get(made)["state"] == "erased"


@pytest.mark.validation
def test_a_folder_is_sent_as_it_lies_and_a_file_is_not_sent_again_as_what_it_was(
    account: Account, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("train/cat", "train/dog", "test/cat", "train/cat/.cache")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        (tmp_path / "pets" / name / f"{number}.png").write_bytes(png(number))
    held = parquet_of(tmp_path / "held.parquet", [f"held-{row}" for row in range(20)])
    lethe, _ = connect(account)
    made = lethe.datasets.register("pets")["id"]
    lethe.datasets.upload(made, tmp_path / "pets")
    account.work()
    ids = ["test/cat/2.png", "train/cat/0.png", "train/dog/1.png"]
    assert [sample["id"] for sample in lethe.datasets.samples(made)] == ids
    told = {each["code"]: each["samples"] for each in lethe.datasets.report(made)["conversions"]}
    assert told == {"passed-over": 1}
    first = lethe.datasets.register("numbers")["id"]
    lethe.datasets.send(first, [parquet_of(tmp_path / "a.parquet", ["a", "b"])], [held])
    account.work()
    second = lethe.datasets.register("more numbers")["id"]

    def sent(*_: object) -> None:
        raise AssertionError("it was sent again")

    with monkeypatch.context() as patched:
        patched.setattr(lethe.datasets, "_send_shard", sent)
        lethe.datasets.send(second, [tmp_path / "a.parquet"], [held])
        with pytest.raises(AssertionError):  # as something else
            lethe.datasets.send(lethe.datasets.register("turned round")["id"], [held])
    account.work()
    assert lethe.datasets.get(second)["train_samples"] == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(TransferError, match="has no files"):
        lethe.datasets.upload(lethe.datasets.register("nothing")["id"], tmp_path / "empty")


@pytest.mark.parametrize("name", ["rows.ndjson", "rows.jsonl", "ROWS.JSONL"])
def test_lines_of_json_are_known_by_either_name(name: str) -> None:
    """As seen: 415."""
    assert _form(Path(name)) == "application/x-ndjson"


def test_another_file_in_the_place_of_a_shard_is_seen(account: Account, connect: Connect, tmp_path: Path) -> None:
    lethe, _ = connect(account)
    made = lethe.datasets.register("people")["id"]
    first, other = (parquet_of(tmp_path / f"{name}.parquet", [f"{name}-{row}" for row in range(9)]) for name in "ab")
    account.http.put(f"/v1/datasets/{made}/shards/0", content=other.read_bytes(), headers={"Content-Type": PARQUET})
    with pytest.raises(TransferError, match="sent as shard 0"):
        lethe.datasets.send(made, [first, other])
    lethe.datasets.delete_shard(made, 0)
    assert lethe.datasets.send(made, [first, other])["state"] == "ingesting"
