"""Commands of the platform engineer: datasets, models and versions, jobs."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from lethe import Client, LetheError
from lethe.cli.common import (
    REFUSED,
    AsJson,
    IdsFile,
    Timeout,
    Wait,
    Yes,
    client,
    console,
    die,
    finish,
    group,
    parse_json,
    read_json,
    read_lines,
    show,
    transfer,
    write_exactly,
)
from lethe.types import Choice, Dataset

dataset = group("Datasets: register, send content, list samples.")
model = group("Models: register, import or train, audit, aliases.")
job = group("Jobs: cancel, try again.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Your name for it.")]
DatasetId = Annotated[str, typer.Argument(metavar="DATASET", help="Id or name of the dataset.")]
ModelId = Annotated[str, typer.Argument(metavar="MODEL", help="Id or name of the model.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job.")]
Number = Annotated[int, typer.Argument(metavar="VERSION", help="Number of the version.")]
Current = Annotated[
    int | None, typer.Argument(metavar="VERSION", min=1, help="Number of the version; the current one if absent.")
]
Seed = Annotated[int, typer.Option(help="Seed of the job.")]
Params = Annotated[str, typer.Option(help="Its parameters, as a JSON object; see `lethe catalog`.")]

# -- datasets --------------------------------------------------------------------------------------


@dataset.command("register")
def register_dataset(
    name: Name,
    source: Annotated[str, typer.Option(help="A source of the catalog; `upload` waits for content.")] = "upload",
    params: Params = "{}",
    carried_for: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The model that has to forget it; its other data are not here.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(exists=True, help="Send this file, or image folder, as its content.")
    ] = None,
    assign_canaries: Annotated[
        bool, typer.Option("--assign-canaries", help="The service's coin decides which canaries are trained on.")
    ] = False,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Register a dataset; with --file, send its content as well."""
    with client() as calls:
        made = calls.datasets.register(
            name, source, carried_for=carried_for, assign_canaries=assign_canaries, **parse_json(params)
        )
        if file is not None:
            try:
                made = _send(calls, made["id"], file, quiet=as_json)
            except LetheError as error:
                error.add_note(_send_again(made["id"]))
                raise
        _finish_dataset(calls, made, wait=wait, as_json=as_json)


@dataset.command("upload")
def upload_dataset(
    thing: DatasetId,
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE",
            help="A .parquet file, a .zip of image folders, an .npz, a .tar, a manifest as .csv or .jsonl, or an image "
            "folder as it lies.",
        ),
    ],
    holdout: Annotated[
        list[Path] | None, typer.Option(help="A file whose samples are never trained on; may be repeated.")
    ] = None,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Send the content of a dataset that waits for it.

    Several files are sent one after the other. The same command goes on where an earlier one broke off.
    """
    with client() as calls:
        if len(files) == 1 and not holdout:
            made = _send(calls, thing, files[0], quiet=as_json)
        else:
            with transfer("files", quiet=as_json) as progress:
                made = calls.datasets.send(thing, files, holdout or (), progress=progress)
        _finish_dataset(calls, made, wait=wait, as_json=as_json)


@dataset.command("report")
def show_report(thing: DatasetId, as_json: AsJson = False) -> None:
    """Show what was taken in, and what was converted on the way."""
    with client() as calls:
        show(calls.datasets.report(thing), as_json=as_json)


@dataset.command("delete")
def delete_dataset(
    thing: DatasetId,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Erase a dataset that nobody needs.

    What that erases is shown first.
    """
    with client() as calls:
        found = calls.datasets.erasable(thing)
        show(found, as_json=as_json)
        if found["needed"]:
            die("the dataset is needed: " + "; ".join(found["needed"]))
        if not yes:
            typer.confirm("Erase it?", abort=True)
        calls.datasets.delete(thing)


def _send(calls: Client, thing: str, file: Path, *, quiet: bool) -> Dataset:
    with transfer(file.name, quiet=quiet) as progress:
        return calls.datasets.upload(thing, file, progress=progress)


def _send_again(thing: str) -> str:
    return f"the dataset {thing} still waits for its content; send it with: lethe dataset upload {thing} FILE"


def _finish_dataset(calls: Client, made: Dataset, *, wait: bool, as_json: bool) -> None:
    if wait and made["job"]:
        try:
            finish(calls, calls.jobs.get(made["job"]), "load the dataset", wait=True, as_json=as_json)
        except typer.Exit:
            if made["source"]["name"] == "upload":
                console.print(_send_again(made["id"]), markup=False, highlight=False, soft_wrap=True)
            raise
    else:
        show(made, as_json=as_json)


@dataset.command("samples")
def list_samples(
    thing: DatasetId,
    split: Annotated[Literal["train", "holdout"] | None, typer.Option(help="This split only.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the ids of the samples that are not erased.

    One in each line; with --json, their labels and splits, too.
    """
    with client() as calls:
        for sample in calls.datasets.samples(thing, split):
            write_exactly((json.dumps(sample) if as_json else sample["id"]) + "\n")


@dataset.command("canaries")
def fetch_canaries(
    thing: DatasetId,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write, an npz.")] = Path("canaries.npz"),
) -> None:
    """Fetch the canaries to mix into your training data.

    They are for a model that is trained elsewhere. Those that are held out are not among them.
    """
    with client() as calls:
        typer.echo(calls.datasets.canaries(thing, output))


# -- models ----------------------------------------------------------------------------------------

Input = Annotated[
    str | None,
    typer.Option(
        "--input",
        metavar="WHERE",
        help="What the network sees: a JSON file, a folder of timm or Hugging Face, or a name of torchvision weights.",
    ),
]


def read_input(where: str | None) -> dict[str, Any] | None:
    """An input contract, or the files to read it from, as the API takes them."""
    if where is None:
        return None
    path = Path(where)
    if not path.exists() and "_Weights." in where:
        return {"torchvision": where}
    if not path.is_dir():
        found = read_json(path)
        return {"timm": found} if "pretrained_cfg" in found or "input_size" in found else found
    config = read_json(path / "config.json")
    if "pretrained_cfg" in config:
        return {"timm": config}
    return {"hugging_face": {"config": config, "preprocessor": read_json(path / "preprocessor_config.json")}}


@model.command("register")
def register_model(
    name: Name,
    thing: DatasetId,
    architecture: Annotated[str, typer.Argument(metavar="ARCHITECTURE", help="A name of the catalog.")],
    params: Params = "{}",
    recipe: Annotated[str, typer.Option(help="The training recipe.")] = "sgd",
    recipe_params: Annotated[str, typer.Option(help="Its parameters, as a JSON object.")] = "{}",
    policy: Annotated[Path | None, typer.Option(help="A JSON file with the unlearning policy.")] = None,
    given: Input = None,
    base: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Training starts from this model's current version, which never saw it."),
    ] = None,
    never_saw: Annotated[
        str | None, typer.Option(help="Your word why; for a base whose data the service does not hold.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Label of the workers that may run its jobs.")] = None,
    as_json: AsJson = False,
) -> None:
    """Register a classifier on a dataset."""
    chosen = Choice(name=architecture, params=parse_json(params))
    trained = Choice(name=recipe, params=parse_json(recipe_params))
    with client() as calls:
        made = calls.models.register(
            name,
            thing,
            chosen,
            recipe=trained,
            policy=None if policy is None else read_json(policy),
            input=read_input(given),
            base=None if base is None else {"model": base, "never_saw": never_saw},
            device=device,
        )
    show(made, as_json=as_json)


@model.command("train")
def train(
    thing: ModelId,
    seed: Seed = 0,
    exclude_request: Annotated[str | None, typer.Option(metavar="REQUEST", help="Leave out its samples.")] = None,
    compare_only: Annotated[
        bool, typer.Option("--compare-only", help="Use it for comparison only; never publish it.")
    ] = False,
    promote: Annotated[
        bool, typer.Option("--promote", help="Let it take the place of the current version; else it is a candidate.")
    ] = False,
    wait: Wait = False,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Train version 1, a candidate, or an exact retrain.

    Beside a current version it is a candidate; `lethe model promote` makes it current.
    """
    with client() as calls:
        made = calls.models.train(
            thing, seed=seed, exclude_request=exclude_request, compare_only=compare_only, promote=promote
        )
        finish(calls, made, "train", wait=wait, timeout=timeout, as_json=as_json)


@model.command("references")
def references(
    thing: ModelId,
    count: Annotated[int, typer.Option(help="Number of models; two are complementary halves.")] = 16,
    design: Annotated[
        Literal["halves", "folds"], typer.Option(help="Each sample in half of the models, or left out by one.")
    ] = "halves",
    seed: Seed = 0,
    file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Send what your own models say, an npz, and train none."),
    ] = None,
    alike: Annotated[
        bool, typer.Option("--alike", help="With --file: your word that they were trained as the model was.")
    ] = False,
    wait: Wait = False,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Train the reference models of audits, or send your own.

    The file has the arrays ids, membership, and log_odds or logits.
    """
    with client() as calls:
        if file is not None:
            with transfer(file.name, quiet=as_json) as progress:
                sent = calls.models.send_references(thing, file, alike=alike, progress=progress)
            show(sent, as_json=as_json)
            return
        made = calls.models.references(thing, count=count, design=design, seed=seed)
        finish(calls, made, f"train {count} references", wait=wait, timeout=timeout, as_json=as_json)


@model.command("audit-plan")
def audit_plan(
    thing: ModelId,
    samples: Annotated[int | None, typer.Option(min=1, help="To be forgotten; what waits if absent.")] = None,
    people: Annotated[int | None, typer.Option(min=1, help="Whose they are, if requested by person.")] = None,
    margin: Annotated[float | None, typer.Option(help="Absent: the policy's.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare what each kind of audit costs, and what it could say.

    Nothing is trained.
    """
    with client() as calls:
        found = calls.models.audit_plan(thing, samples=samples, people=people, margin=margin)
    if as_json:
        typer.echo(json.dumps(found))
        return
    table = Table("audit", "price", "smallest margin", f"at {found['margin']:g}", box=None)
    for offer in found["offers"]:
        seconds, least = offer["seconds"], offer["smallest_margin"]
        price = "nothing" if not offer["trainings"] else f"{offer['trainings']:g} trainings"
        if seconds:
            price += f", {seconds:.0f} s"
        says = "possible" if offer["possible"] else "lacks " + "; ".join(offer["lacks"])
        table.add_row(offer["kind"], price, "none" if least is None else f"{least:.3f}", says)
    console.print(table)


@model.command("precompute")
def precompute(
    thing: ModelId, seed: Seed = 0, wait: Wait = False, timeout: Timeout = None, as_json: AsJson = False
) -> None:
    """Precompute the adversarial examples of the training set.

    For a policy whose adversarial set is `precomputed`.
    """
    with client() as calls:
        made = calls.models.precompute(thing, seed=seed)
        finish(calls, made, "precompute", wait=wait, timeout=timeout, as_json=as_json)


@model.command("import")
def import_checkpoint(
    thing: ModelId,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A safetensors file; `lethe convert` makes one.")],
    ids_file: IdsFile = None,
    not_held: Annotated[
        bool, typer.Option("--not-held", help="The service has none of its training data (source `external`).")
    ] = False,
    accuracy: Annotated[
        float | None, typer.Option(min=0, max=1, help="What you measured on the holdout; the import must agree.")
    ] = None,
    stated: Annotated[
        Path | None,
        typer.Option(help="A JSON file with `accuracy` or `logits`, `sample_ids` and `tolerance`, instead."),
    ] = None,
    tolerance: Annotated[float | None, typer.Option(help="How far the accuracies may differ; 0.005 if absent.")] = None,
    wait: Wait = False,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Import a checkpoint trained elsewhere.

    It was trained on the whole train split, on the ids in --ids-file, or on data that stay with you (--not-held).
    """
    if not_held and ids_file is not None:
        raise typer.BadParameter("give either --ids-file or --not-held")
    if stated is not None and (accuracy is not None or tolerance is not None):
        raise typer.BadParameter("--stated takes the place of --accuracy and --tolerance")
    if tolerance is not None and accuracy is None:
        raise typer.BadParameter("--tolerance is that of --accuracy")
    measured = read_json(stated) if stated is not None else None
    if accuracy is not None:
        measured = {"accuracy": accuracy} | ({"tolerance": tolerance} if tolerance is not None else {})
    trained_on: list[str] | Literal["train-split", "not-held"] = "not-held" if not_held else "train-split"
    if ids_file is not None:
        trained_on = read_lines(ids_file)
    with client() as calls:
        with transfer(file.name, quiet=as_json) as progress:
            made = calls.versions.import_checkpoint(thing, file, trained_on, stated=measured, progress=progress)
        finish(calls, made, "import", wait=wait, timeout=timeout, as_json=as_json)


@model.command("check")
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, help="The safetensors file.")],
    data: Annotated[
        Path, typer.Argument(metavar="DATA", exists=True, help="A file that the dataset takes: Parquet, zip or npz.")
    ],
    architecture: Annotated[str, typer.Argument(metavar="ARCHITECTURE", help="A name of the catalog.")],
    params: Params = "{}",
    given: Input = None,
    accuracy: Annotated[float | None, typer.Option(min=0, max=1, help="What you measured on the holdout.")] = None,
    stated: Annotated[
        Path | None, typer.Option(help="A JSON file with `accuracy` or `logits`, `sample_ids` and `tolerance`.")
    ] = None,
    holdout_fraction: Annotated[float, typer.Option(help="As the dataset's; where its file names no splits.")] = 0.1,
    seed: Annotated[int, typer.Option(help="As the dataset's.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Measure a checkpoint on this machine, as its import would.

    Nothing is sent. It needs the service's checkout with its workers' dependencies.
    """
    if find_spec("engine") is None or find_spec("torch") is None:
        die("`lethe model check` needs torch and the service's checkout; an import with --accuracy checks the same")
    asked = {
        "checkpoint": str(file),
        "data": str(data),
        "architecture": {"name": architecture, "params": parse_json(params)},
        "input": read_input(given) or {},
        "stated": read_json(stated) if stated else None if accuracy is None else {"accuracy": accuracy},
        "holdout_fraction": holdout_fraction,
        "seed": seed,
    }
    program = [sys.executable, "-m", "engine.check"]
    done = subprocess.run(program, input=json.dumps(asked), stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise typer.Exit(REFUSED)
    found = json.loads(done.stdout)
    rows = [(name, value) for name, value in found.items() if not isinstance(value, list)]
    rows += [("warning", text) for text in found.get("warnings", [])]
    show(found, rows + [("likely cause", text) for text in found.get("causes", [])], as_json=as_json)
    if found["agrees"] is False:
        raise typer.Exit(REFUSED)


@model.command("audit")
def audit(
    thing: ModelId,
    version: Current = None,
    name: Annotated[str | None, typer.Option("--audit", help="An audit of the catalog; else the policy's.")] = None,
    params: Params = "{}",
    probe: Annotated[
        list[str] | None, typer.Option("--probe", help="A probe of the catalog, in place of the policy's; repeatable.")
    ] = None,
    ids_file: IdsFile = None,
    grouped: Annotated[
        bool, typer.Option("--grouped", help="The ids were chosen together, so their null is not 0.5.")
    ] = False,
    canaries: Annotated[
        bool, typer.Option("--canaries", help="Measure the canaries that it and the versions before it unlearned.")
    ] = False,
    wait: Wait = False,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Audit a version again; its published report stays.

    It measures the samples in --ids-file, or canaries, or else the samples that the version unlearned. `lethe report
    JOB` shows the report.
    """
    if canaries and (ids_file is not None or grouped):
        raise typer.BadParameter("--canaries takes the place of --ids-file")
    if name is None and params != "{}":
        raise typer.BadParameter("--params are those of --audit")
    chosen = None if name is None else Choice(name=name, params=parse_json(params))
    ids = None if ids_file is None else read_lines(ids_file)
    with client() as calls:
        made = calls.models.audit(
            thing,
            version=version,
            audit=chosen,
            probes=[Choice(name=each, params={}) for each in probe] if probe else None,
            sample_ids=ids,
            grouped=grouped,
            canaries=canaries,
        )
        finish(calls, made, "audit", wait=wait, timeout=timeout, as_json=as_json)


@model.command("policy")
def policy(
    thing: ModelId,
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="A JSON file with the new policy.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the unlearning policy; with FILE, replace it."""
    with client() as calls:
        found = calls.models.get(thing) if file is None else calls.models.set_policy(thing, read_json(file))
    show(found["policy"], list(found["policy"].items()), as_json=as_json)


@model.command("promote")
def promote(thing: ModelId, version: Number, as_json: AsJson = False) -> None:
    """Make a superseded version or a candidate current."""
    with client() as calls:
        show(calls.versions.promote(thing, version), as_json=as_json)


@model.command("rollback")
def roll_back(thing: ModelId, as_json: AsJson = False) -> None:
    """Make the parent of the current version current."""
    with client() as calls:
        show(calls.models.roll_back(thing), as_json=as_json)


@model.command("alias")
def set_alias(
    thing: ModelId,
    name: Annotated[str, typer.Argument(metavar="ALIAS", help="Such as `production`.")],
    version: Annotated[int, typer.Argument(metavar="VERSION", help="Number of the version; 0 removes the name.")],
    as_json: AsJson = False,
) -> None:
    """Give a version a name, or remove the name."""
    with client() as calls:
        if version == 0:
            calls.models.remove_alias(thing, name)
        else:
            show(calls.models.set_alias(thing, name, version), as_json=as_json)


@model.command("card")
def card(thing: ModelId, version: Current = None) -> None:
    """Print the model card of a version, in Markdown."""
    with client() as calls:
        write_exactly(calls.versions.model_card(thing, version or _current(calls, thing)) + "\n")


@model.command("purge")
def purge(
    thing: ModelId,
    version: Annotated[int | None, typer.Option(min=1, help="Only this version.")] = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Erase every checkpoint of a model, or one version.

    It cannot be undone. What would go is shown before.
    """
    with client() as calls:
        if not yes:
            found = calls.models.erasable(thing, version)
            show(found, list(found.items()), as_json=False)
            typer.confirm(f"Erase {found['bytes']:,} bytes of {thing}?", abort=True)
        if version is None:
            show(calls.models.purge(thing), as_json=as_json)
        else:
            show(calls.versions.delete(thing, version), as_json=as_json)


def _current(calls: Client, thing: str) -> int:
    number = calls.models.get(thing)["current_version"]
    return die("this model has no current version") if number is None else number


@model.command("export")
def export(
    thing: ModelId,
    target: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder.")],
    version: Annotated[
        int | None, typer.Option(min=1, help="Number of the version; the current one if absent.")
    ] = None,
    form: Annotated[
        Literal["hugging-face", "plain"], typer.Option(help="`plain` has the code that loads it.")
    ] = "plain",
) -> None:
    """Fetch a version as a folder that its library loads."""
    if target.exists():
        raise typer.BadParameter(f"{target} exists")
    with client() as calls:
        calls.versions.export(thing, version or _current(calls, thing), target, form)
    for file in sorted(target.iterdir()):
        typer.echo(file)


def download(
    thing: ModelId,
    version: Current = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")] = None,
    reason: Annotated[
        str | None, typer.Option(help="Why an admin fetches a version that an unlearning replaced; it is logged.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Download a checkpoint and check its digest.

    The same command continues an interrupted download.
    """
    with client() as calls:
        number = version or _current(calls, thing)
        target = output or Path(f"{thing}-v{number}.safetensors")
        with transfer(target.name, quiet=as_json) as progress:
            digest = calls.versions.download(thing, number, target, reason=reason, progress=progress)
    show({"file": str(target), "digest": digest, "version": number}, as_json=as_json)


def report(
    thing: Annotated[
        str, typer.Argument(metavar="MODEL|JOB", help="Id or name of the model, or id of the job that made the report.")
    ],
    version: Current = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Save the HTML page here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the audit of a version, or of a job.

    The verdict; with --output, the whole page.
    """
    with client() as calls:
        if thing.startswith("job_"):
            document, page = calls.jobs.audit(thing), partial(calls.jobs.audit_page, thing)
        else:
            number = version or _current(calls, thing)
            document, page = calls.versions.audit(thing, number), partial(calls.versions.audit_page, thing, number)
        if output is not None:
            output.write_text(page(), "utf-8")
    judgement = document["report"]["judgement"]
    rows = [("verdict", judgement["verdict"]), ("reason", judgement["reason"])]
    show(document, rows + ([("page", output)] if output else []), as_json=as_json)


# -- jobs ------------------------------------------------------------------------------------------


@job.command("cancel")
def cancel_job(thing: JobId, as_json: AsJson = False) -> None:
    """Cancel a job.

    A queued job ends at once, a running one when its worker next renews its lease.
    """
    with client() as calls:
        show(calls.jobs.cancel(thing), as_json=as_json)


@job.command("retry")
def retry_job(thing: JobId, wait: Wait = False, timeout: Timeout = None, as_json: AsJson = False) -> None:
    """Queue a failed, rejected or dead job again."""
    with client() as calls:
        finish(calls, calls.jobs.retry(thing), "try again", wait=wait, timeout=timeout, as_json=as_json)
