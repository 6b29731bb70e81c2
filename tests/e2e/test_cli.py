"""The command line against a live service: a platform engineer's and a privacy officer's day, and the exit codes."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import pytest
import typer.main

from app.core.config import get_settings
from lethe import Client
from lethe.cli import main
from lethe.cli.common import follow, transfer
from tests.support import QUICK_MODEL, QUICK_POLICY, embedded, eventually, free_port


class Run(Protocol):
    def __call__(self, *arguments: str, stdin: str = "", code: int = 0) -> str: ...


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Path]]:
    folder = tmp_path_factory.mktemp("cli") / "data"
    with embedded(folder, webhooks_to_private="true") as client:
        yield client, folder


@pytest.fixture
def run(
    service: tuple[Client, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Run:
    """The command in this process, in a folder of its own; its standard output."""
    monkeypatch.setenv("LETHE_DATA_DIR", str(service[1]))
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, stdin: str = "", code: int = 0) -> str:
        get_settings.cache_clear()
        monkeypatch.setattr("sys.argv", ["lethe", *arguments])
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        with pytest.raises(SystemExit) as ended:
            main.main()
            raise SystemExit(0)
        out, err = capsys.readouterr()
        assert (ended.value.code or 0) == code, out + err
        assert "Traceback" not in err
        return out if code == 0 else out + err

    return call


def document(text: str) -> Any:
    return json.loads(text)


@pytest.fixture(scope="module")
def made(service: tuple[Client, Path]) -> dict[str, Any]:
    """What the tests of this module hand on."""
    return {}


def test_an_engineer_registers_trains_and_looks(run: Run, made: dict[str, Any], tmp_path: Path) -> None:
    assert document(run("status", "--json"))["database"] == "ok"
    run("dataset", "register", "digits", "--source", "digits", "--wait")
    made["dataset"] = document(run("list", "datasets", "--json"))["id"]
    Path("policy.json").write_text(json.dumps(QUICK_POLICY))
    architecture, recipe = QUICK_MODEL["architecture"], QUICK_MODEL["recipe"]
    chosen = ("--params", json.dumps(architecture["params"]), "--recipe", recipe["name"])
    trained = ("--recipe-params", json.dumps(recipe["params"]), "--policy", "policy.json")
    text = run("model", "register", "reader", made["dataset"], architecture["name"], *chosen, *trained, "--json")
    made["model"] = document(text)["id"]
    assert document(run("model", "train", made["model"], "--seed", "1", "--wait", "--json"))["state"] == "succeeded"
    assert "succeeded" in run("model", "references", made["model"], "--count", "4", "--wait")
    found = document(run("model", "policy", made["model"], "--json"))
    assert found["method"]["params"]["epochs"] == 2
    run("model", "alias", made["model"], "production", "1")
    assert "production" in run("list", "aliases", made["model"])
    run("model", "alias", made["model"], "production", "0")
    assert "production" not in run("list", "aliases", made["model"])
    assert run("model", "card", made["model"]).startswith("---\n")
    assert "small_cnn" in run("catalog", "architectures")
    jobs = [document(line) for line in run("list", "jobs", "-w", "kind=train", "--json").splitlines()]
    assert [job["state"] for job in jobs] == ["succeeded"]


def test_an_officer_asks_follows_and_proves(run: Run, made: dict[str, Any], tmp_path: Path) -> None:
    ids = run("dataset", "samples", made["dataset"], "--split", "train").split()
    assert len(ids) > 800
    whom = "\n".join(ids[:20]) + "\n"
    preview = run("request", made["dataset"], "--ids-file", "-", "--dry-run", "--json", stdin=whom)
    assert document(preview)["samples"] == 20
    assert run("list", "requests", "--json") == ""
    Path("ids.txt").write_text(whom)
    asked = ("request", made["dataset"], "--ids-file", "ids.txt", "--key", "ticket-1", "--json")
    request = document(run(*asked))["id"]
    assert document(run(*asked))["id"] == request  # sent twice, made once
    assert document(run("wait", request, "--json"))["status"] == "fulfilled"
    assert "fulfilled" in run("status", request)
    lines = [
        {"dataset": made["dataset"], "sample_ids": [ids[0]]},
        {"dataset": made["dataset"], "sample_ids": [ids[30]]},
    ]
    text = run("requests-import", "-", stdin="\n".join(map(json.dumps, lines)), code=1)
    assert "1: refused" in text
    assert "lethe: 1 of 2 lines were refused" in text
    assert "2: del_" in text
    assert ids[0] not in text

    version = document(run("download", made["model"], "-o", "model.safetensors", "--json"))
    assert version["version"] >= 2
    assert Path("model.safetensors").stat().st_size > 10_000
    assert "inconclusive" in run("report", made["model"], "2", "-o", "report.html")
    assert Path("report.html").read_text().startswith("<!doctype html>")

    certificates = ("list", "certificates", "-w", f"request={request}", "--json")
    eventually(lambda: run(*certificates), "the certificate")
    run("certificate", request, "-o", "certificate.json")
    run("trust", "-o", "trust.json")
    assert "The certificate is verified." in run("verify", "certificate.json", "--trust", "trust.json")
    _prove_more(run, request, ids)
    assert "NOT VERIFIED" in run("verify", "certificate.json", "--key", _another_key(tmp_path), code=1)
    run("verify", "missing.json", "--trust", "trust.json", code=2)
    assert run("register").startswith("\ufeffrequest,status,")
    assert request in run("register", "--json")
    assert document(run("summary", "--json"))["by_status"]["fulfilled"] >= 1
    assert "superseded-checkpoint" in run("list", "receipts", "-w", "done=false")
    made["ids"] = ids


def _prove_more(run: Run, request: str, ids: list[str]) -> None:
    """The log's own proofs, and the salt; then the salt is destroyed."""
    checks = ("verify", "certificate.json", "--trust", "trust.json")
    run("log", "head", "-o", "head.txt")
    size = Path("head.txt").read_text().splitlines()[1]
    assert len(run("log", "entries", "--limit", "1000").splitlines()) >= int(size)  # it goes on growing
    assert document(run("log", "inclusion", "0", size))["hashes"] is not None
    said = document(run(*checks, "--json"))
    leaves = next(check["detail"] for check in said["checks"] if check["name"] == "transparency log")
    certified = re.search(r"signed tree of (\d+) leaves", leaves)
    assert certified
    run("log", "consistency", certified[1], size, "-o", "proof.json")
    assert document(Path("proof.json").read_text()).keys() == {"hashes"}
    assert "refused:" in run("log", "consistency", "1", str(int(size) + 1000), code=1)

    Path("forgotten.txt").write_text("\n".join(ids[:20]))
    run("opening", request, "--ids-file", "forgotten.txt", "-o", "membership.json")
    assert "all 20 ids you gave are among its 20" in run(*checks, "--membership", "membership.json")
    Path("kept.txt").write_text(ids[20])
    run("opening", request, "--ids-file", "kept.txt", "-o", "membership.json")
    assert "NOT VERIFIED" in run(*checks, "--membership", "membership.json", code=1)
    run("shred", request, stdin="n\n", code=1)
    assert document(run("shred", request, "--yes", "--json")) == {"deleted": True}
    assert document(run("shred", request, "--yes", "--json")) == {"deleted": False}
    assert "refused:" in run("opening", request, code=1)


def test_a_version_is_measured_again(run: Run, made: dict[str, Any]) -> None:
    whom = "\n".join(made["ids"][200:240])
    asked = ("model", "audit", made["model"], "--ids-file", "-", "--grouped", "--wait", "--json")
    job = document(run(*asked, stdin=whom))
    assert (job["kind"], job["state"]) == ("audit", "succeeded")
    assert "verdict" in run("report", job["id"], "-o", "again.html")
    assert Path("again.html").read_text().startswith("<!doctype html>")
    assert document(run("report", job["id"], "--json"))["report"]["judgement"]["verdict"]
    assert "refused:" in run("model", "audit", made["model"], "--audit", "no_such_audit", code=1)
    run("model", "audit", made["model"], "--params", '{"x": 1}', code=2)
    assert "has forgotten no canaries" in run("model", "audit", made["model"], "--canaries", code=1)
    run("model", "audit", made["model"], "--canaries", "--grouped", code=2)


def test_data_that_stay_with_their_owner(run: Run, made: dict[str, Any]) -> None:
    """A checkpoint whose data the service does not hold, and a deletion that brings its samples."""
    shape = ("--source", "external", "--params", '{"classes": 10, "shape": [8, 8, 1]}', "--json")
    elsewhere = document(run("dataset", "register", "kept at home", *shape))["id"]
    Path("policy.json").write_text('{"remain": "none"}')
    size = json.dumps(QUICK_MODEL["architecture"]["params"])
    chosen = ("small_cnn", "--params", size, "--policy", "policy.json", "--device", "cpu", "--json")
    registered = document(run("model", "register", "reader", elsewhere, *chosen))
    assert registered["device"] == "cpu"
    model = registered["id"]
    run("download", made["model"], "-o", "model.safetensors")
    Path("none.txt").write_text("")
    sent = ("model", "import", model, "model.safetensors", "--wait")
    run(*sent, "--not-held", "--ids-file", "none.txt", code=2)
    assert "refused:" in run(*sent, "--ids-file", "none.txt", code=1)  # no ids are not the whole train split
    assert "succeeded" in run(*sent, "--not-held")

    random = np.random.default_rng(0)
    pictures, labels = random.integers(0, 256, (30, 8, 8), dtype=np.uint8), np.arange(30) % 10
    ids, holdout = [f"theirs-{row}" for row in range(30)], np.arange(30) >= 20
    np.savez_compressed("theirs.npz", images=pictures, labels=labels, ids=ids, holdout=holdout)
    carried = ("dataset", "register", "ticket 17", "--carried-for", model, "--file", "theirs.npz", "--wait")
    run(*carried)
    listed = [document(line) for line in run("list", "datasets", "--json").splitlines()]
    [dataset] = [each["id"] for each in listed if each["carried_for"] == model]
    assert "refused:" in run("request", made["dataset"], code=1)  # held data are not forgotten whole by leaving ids out
    assert document(run("request", dataset, "--wait", "--json"))["status"] == "fulfilled"
    assert document(run("status", dataset, "--json"))["state"] == "erased"


def _another_key(folder: Path) -> str:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    form = serialization.PublicFormat.SubjectPublicKeyInfo
    pem = Ed25519PrivateKey.generate().public_key().public_bytes(serialization.Encoding.PEM, form)
    (folder / "other.pem").write_bytes(pem)
    return "other.pem"


def test_decisions_carry_reasons(run: Run, made: dict[str, Any]) -> None:
    policy = QUICK_POLICY | {"when": {"mode": "batch", "max_requests": 50}}
    Path("policy.json").write_text(json.dumps(policy))
    run("model", "policy", made["model"], "policy.json")
    asked = ("request", made["dataset"], "--ids-file", "-", "--json")
    request = document(run(*asked, stdin="\n".join(made["ids"][50:53])))["id"]
    run("decide", request, "hold", code=2)
    assert "held" in run("decide", request, "hold", "--reason", "a lawsuit")
    run("decide", request, "release")
    partial = ("decide", request, "refuse", "--reason", "needed by law", "--ids-file", "-", "--json")
    assert document(run(*partial, stdin=made["ids"][50]))["samples_refused"] == 1
    assert document(run("decide", request, "cancel", "--reason", "withdrawn", "--json"))["status"] == "cancelled"
    assert "refused:" in run("decide", request, "hold", "--reason", "again", code=1)


def test_keys_webhooks_and_tenants(run: Run, service: tuple[Client, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    key = document(run("key", "create", "auditor", "-s", "read", "-s", "audit", "--expires-in-days", "3", "--json"))
    assert key["token"].startswith("lethe_")
    rotated = document(run("key", "rotate", key["id"], "--json"))
    assert rotated["scopes"] == ["read", "audit"]
    run("key", "revoke", rotated["id"])
    assert document(run("status", rotated["id"], "--json"))["revoked_at"]
    ended = {document(line)["id"] for line in run("list", "keys", "-w", "valid=false", "--json").splitlines()}
    assert ended == {key["id"], rotated["id"]}
    hook = document(run("webhook", "create", "http://127.0.0.1:9/x", "-e", "request.*", "--json"))
    assert hook["secret"].startswith("whsec_")
    assert run("list", "deliveries", hook["id"], "--json") == ""
    run("webhook", "disable", hook["id"])

    other = document(run("tenants", "create", "another office", "--json"))
    assert "another office" in run("tenants", "list")
    monkeypatch.setenv("LETHE_API_KEY", other["token"])
    assert run("list", "datasets", "--json") == ""
    monkeypatch.setenv("LETHE_API_KEY", "lethe_nobody_nothing")
    assert "refused:" in run("list", "datasets", code=1)


def test_a_refused_upload_says_how_to_go_on(run: Run) -> None:
    run("dataset", "register", "people", "--file", "nowhere.parquet", code=2)  # and nothing is registered
    Path("empty.npz").write_bytes(b"")
    text = run("dataset", "register", "people", "--file", "empty.npz", code=1)
    (command,) = re.findall(r"lethe (dataset upload dst_\w{26}) FILE", text)
    images, split = np.zeros((4, 8, 8), np.uint8), np.array([False, False, True, True])
    np.savez("people.npz", images=images, labels=[0, 1, 0, 1], ids=["a", "b", "c", "d"], holdout=split)
    assert "succeeded" in run(*command.split(), "people.npz", "--wait")
    assert document(run("list", "datasets", "-w", "state=awaiting-content", "--json") or "null") is None


def test_an_upload_that_cannot_be_read_says_how_to_go_on(run: Run) -> None:
    with zipfile.ZipFile("people.zip", "w") as archive:
        for number, split in enumerate(("train", "train", "holdout", "holdout")):
            archive.writestr(f"{split}/class-{number % 2}/{number}.png", b"no picture")
    text = run("dataset", "register", "pictures", "--file", "people.zip", "--wait", code=1)
    assert re.search(r"lethe dataset upload dst_\w{26} FILE", text)


def test_where_there_is_no_terminal_each_stage_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    class Jobs:
        def follow(self, job: str, timeout: float | None) -> Iterator[dict[str, Any]]:
            for state, stage in (("queued", None), ("running", "attack"), ("running", "attack"), ("running", "audit")):
                yield {"state": state, "stage": stage, "fraction": 0.5}
            yield {"other": "event"}

        def get(self, job: str) -> dict[str, Any]:
            return {"id": job, "state": "succeeded"}

    calls: Any = SimpleNamespace(jobs=Jobs())
    follow(calls, "job_1", "unlearn  ")
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == ["unlearn: queued", "unlearn: attack", "unlearn: audit"]
    assert "succeeded" in lines[3]
    follow(calls, "job_1", "unlearn", quiet=True)
    assert capsys.readouterr().err == ""


def test_a_transfer_ends_without_a_question_mark(capsys: pytest.CaptureFixture[str]) -> None:
    with transfer("a.bin", quiet=False) as progress:
        progress(7, 7)
    shown = capsys.readouterr().err
    assert "7/7 bytes" in shown
    assert "?" not in shown


def test_exit_codes(run: Run, made: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no such job" in run("status", "job_" + "0" * 26, code=1)
    run("status", "what", code=2)
    run("request", made["dataset"], "--ids-file", "a.txt", "--subjects-file", "b.txt", code=2)
    run("list", "versions", code=2)
    run("download", made["model"], "0", code=2)  # not the current one
    run("list", "jobs", "-w", "state=odd", code=1)
    assert "state" in run("list", "jobs", "-w", "stat=failed", code=1)  # the parameters that there are
    run("list", "jobs", "-w", "failed", code=2)
    run("dataset", "register", "x", "--params", "{", code=2)
    assert "missing.txt" in run("request", made["dataset"], "--ids-file", "missing.txt", code=1)
    job = document(run("model", "precompute", made["model"], "--json"))["id"]
    assert "has not ended" in run("wait", job, "--timeout", "0", code=4)
    monkeypatch.setattr("lethe.transport.time.sleep", lambda _: None)
    monkeypatch.setenv("LETHE_URL", f"http://127.0.0.1:{free_port()}")
    assert "LETHE_API_KEY" in run("status", code=1)  # the folder's key is for the folder's service
    monkeypatch.setenv("LETHE_API_KEY", "lethe_of_another")
    assert "lethe serve" in run("status", code=3)


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group, by the words that call it."""
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


@pytest.mark.parametrize("columns", ["80", "100"])
def test_no_help_is_cut_off(run: Run, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    for path, _ in commands(typer.main.get_command(main.commands())):
        if path not in (("bench",), ("calibrate",)):  # other programs: this one would become them
            text = run(*path, "--help")
            assert not re.search(r"[^\]}]\.\.\.$", text, re.MULTILINE), text  # but several of an argument
            assert max(map(len, text.splitlines())) <= int(columns), text


def test_ids_are_never_arguments() -> None:
    """No command takes a sample's id or a subject from its command line, where every user of the machine sees it."""
    found = [command for _, command in commands(typer.main.get_command(main.commands()))]
    names = [param.name for command in found for param in command.params]
    assert {"ids_file", "subjects_file"} <= set(names)
    assert not {"sample", "sample_id", "sample_ids", "subject", "subjects", "ids"} & set(names)
