"""`lethe demo`: the main job on real data, through the HTTP API alone, on a service of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lethe import Client, JobFailedError, LetheError, verify
from lethe.cli.common import follow
from lethe.types import Choice, DeletionRequest, Job

# Chosen beforehand on other splits of the digits by closeness to exact retrains, an oracle that a user lacks.
AMUN = {"name": "amun", "params": {"learning_rate": 0.25, "decay_every": 5, "batch_size": 64}}
PEOPLE, EACH = 60, 3  # who ask for deletion, and how many samples each of them has
MARGIN = 0.1  # that so many samples can pass
REFERENCES = 16
LETHE = os.path.relpath(Path(sys.executable).parent / "lethe")  # it may not be on the path
console = Console(highlight=False, soft_wrap=True)


def run(folder: Path) -> int:
    """Exit code 0 only if all of it happened."""
    began = time.monotonic()
    if folder.exists() and not (folder / "serve.lock").exists():
        console.print(f"{folder} exists and is not a folder of the demo; give another with --folder")
        return 2
    shutil.rmtree(folder, ignore_errors=True)
    with _service(folder) as calls:
        try:
            _main_job(calls, folder)
        except LetheError as error:
            console.print(f"[red]the demo failed:[/] {error}")
            return 1
    console.print(
        f"All of it took {time.monotonic() - began:.0f} s. The service's data are in {folder}. To look around:"
    )
    console.print(f"  LETHE_DATA_DIR={folder} {LETHE} serve      # and in another terminal, for a link to sign in:")
    console.print(f"  LETHE_DATA_DIR={folder} {LETHE} console")
    return 0


@contextmanager
def _service(folder: Path) -> Iterator[Client]:
    """`lethe serve` on a free port, with its log in the folder."""
    folder.mkdir(mode=0o700, parents=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LETHE_")}
    environment |= {"LETHE_DATA_DIR": str(folder.absolute()), "LETHE_PORT": "0"}
    log = folder / "service.log"
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "app", "serve"], env=environment, stdout=file, stderr=file)
    try:
        while not (folder / "url").exists():
            if process.poll() is not None:
                raise SystemExit(f"the service did not start; see {log}:\n{log.read_text('utf-8', 'replace')}")
            time.sleep(0.05)
        with Client.from_folder(folder) as calls:
            yield calls
    finally:
        process.terminate()
        process.wait()


def _main_job(calls: Client, folder: Path) -> None:
    dataset = calls.datasets.register("digits", "digits", noise=0.3, per_person=EACH)
    _follow(calls, dataset["job"], "load the digits")
    recipe: Choice = {"name": "sgd", "params": {"epochs": 30, "batch_size": 64}}
    audit: Choice = {"name": "rmia", "params": {"margin": MARGIN}}
    policy = {"method": AMUN, "audit": audit, "on_inconclusive": "retrain"}
    model = calls.models.register("digit reader", dataset["id"], "small_cnn", recipe=recipe, policy=policy)["id"]
    _follow(calls, calls.models.train(model, seed=1)["id"], "train version 1")
    references = calls.models.references(model, count=REFERENCES, seed=2)
    _follow(calls, references["id"], f"train {REFERENCES} references")

    # The audit must not believe a model that forgot nothing. Version 1 is one, of the samples that will be asked for.
    people = [f"train-{number}" for number in range(PEOPLE)]
    untouched = calls.models.audit(model, subjects=people)
    _follow(calls, untouched["id"], "audit version 1, original")

    request = calls.requests.create(dataset["id"], subjects=people, jurisdiction="gdpr")
    console.print(
        f"{PEOPLE} people ask for deletion of {request['samples']} samples: {request['id']}, due {request['due_at']}"
    )
    # Queued now, the comparison runs after the unlearning and before the samples' bytes are erased.
    retrain = calls.models.train(model, seed=3, exclude_request=request["id"], compare_only=True)
    unlearned = _follow(calls, request["outcomes"][0]["job"], "unlearn (AMUN-A)")
    _follow(calls, retrain["id"], "exact retrain, to compare")

    number = (unlearned["result"] or {})["version"]
    document = calls.versions.audit(model, number)
    before = calls.versions.audit(model, 1)
    page = folder / "report.html"
    checkpoint = folder / f"version-{number}.safetensors"
    digest = calls.versions.download(model, number, checkpoint)
    final = calls.requests.wait(request["id"])
    _print(document, before, final, checkpoint, digest, page)
    if final["status"] != "fulfilled":
        raise LetheError(f"the request ended as {final['status']}")
    if document["report"]["judgement"]["verdict"] == before["report"]["judgement"]["verdict"]:
        raise LetheError("the audit says the same of the unlearned and of the untouched model")
    _hand_over(calls, request["id"], folder)
    page.write_text(calls.versions.audit_page(model, number), "utf-8")  # now that it names the certificate


def _hand_over(calls: Client, request: str, folder: Path) -> None:
    """The case file, and what the offline verifier says of it."""
    case, trust = folder / "case.zip", folder / "trust.json"
    case.write_bytes(calls.requests.case_file(request))
    trust.write_text(json.dumps(calls.log.keys(), indent=2))
    report = verify.verify_case(case.read_bytes(), verify.read_trust(trust.read_bytes()))
    if not report.verified:
        wrong = [f"{check.name}: {check.detail}" for check in report.checks if check.verified is False]
        raise LetheError(f"the case file does not verify: {'; '.join(wrong)}")
    done = sum(check.verified is True for check in report.checks)
    console.print(f"case file   {case}: verified, {done} checks ({LETHE} verify {case} --trust {trust})")


def _follow(calls: Client, job: str | None, label: str) -> Job:
    ended = follow(calls, job or "", f"{label:<26}")
    while following := (ended["problem"] or {}).get("next_job"):  # the gate escalated
        ended = follow(calls, following, f"{'next escalation step':<26}")
    if ended["state"] != "succeeded":
        raise JobFailedError(ended)
    return ended


# -- the table -------------------------------------------------------------------------------------


def _print(
    document: dict[str, Any],
    before: dict[str, Any],
    final: DeletionRequest,
    checkpoint: Path,
    digest: str,
    page: Path,
) -> None:
    report, retrained = document["report"], document["retrained"]
    columns = [report["parent"], report["candidate"], retrained["measurement"]]
    table = Table(title="What the models know", title_justify="left")
    for heading in ("", "original", "unlearned", "retrained"):
        table.add_column(heading, justify="left" if not heading else "right")
    for label, key in (("forget", "accuracy_forget"), ("retain", "accuracy_retain"), ("test", "accuracy_test")):
        table.add_row(f"{label} accuracy", *(f"{100 * column[key]:.1f} %" for column in columns))
    table.add_row("FT-AUC", *(f"{column['ft_auc']['value']:.3f}" for column in columns))
    spans = (column["ft_auc"]["interval"] for column in columns)
    table.add_row("  95 % interval", *(f"{span['low']:.3f} to {span['high']:.3f}" for span in spans))
    console.print(table)
    judgement = report["judgement"]
    untouched = before["report"]["judgement"]
    console.print(f"verdict     [bold]{judgement['verdict']}[/]: {judgement['reason']}")
    console.print(f"original    [bold]{untouched['verdict']}[/]: {untouched['reason']}")
    seconds = {**report["stage_seconds"], "retrain": retrained["stage_seconds"]["train"]}
    console.print("seconds     " + ", ".join(f"{stage} {value:.2f}" for stage, value in seconds.items()))
    console.print(
        f"request     {final['status']}, {len(final['receipts'])} receipts: what is erased, and what goes on a date"
    )
    console.print(f"checkpoint  {checkpoint} ({digest[:19]}…, checked)")
    console.print(f"report      {page}")
