"""Datasets, models and their versions: what is registered, sent and fetched."""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import quote, urlencode

from lethe import types
from lethe.collection import Collection
from lethe.errors import ProblemError, TransferError
from lethe.jobs import Jobs
from lethe.transport import Bytes, Transport
from lethe.types import Choice, Json

DATASET_TYPES = {
    ".parquet": "application/vnd.apache.parquet",
    ".zip": "application/zip",
    ".npz": "application/x-npz",
    ".tar": "application/x-tar",
    ".csv": "text/csv",
    ".ndjson": "application/x-ndjson",
    ".jsonl": "application/x-ndjson",
}
NPZ = "application/x-npz"
SAFETENSORS = "application/vnd.safetensors"


class Datasets(Collection[types.Dataset]):
    path = "/v1/datasets"

    def __init__(self, calls: Transport, jobs: Jobs) -> None:
        super().__init__(calls)
        self._jobs = jobs

    def register(
        self,
        name: str,
        source: str = "upload",
        *,
        carried_for: str | None = None,
        id_namespace: str | None = None,
        assign_canaries: bool = False,
        **params: Any,
    ) -> types.Dataset:
        """A dataset from a source of the catalog; `upload` waits for its content, and so does `objects`
        without a prefix, for a manifest. carried_for: the model that is to
        forget it, whose training data the service does not hold. id_namespace: where its sample ids come from; what was
        erased under an id is left out of every later dataset of the namespace. assign_canaries: of an upload, let the
        service's coin decide which canaries are trained on."""
        chosen = {"name": source, "params": params}
        more = {"assign_canaries": True} if assign_canaries else {}
        return self._create(name=name, source=chosen, carried_for=carried_for, id_namespace=id_namespace, **more)

    def canaries(self, dataset: str, target: Path) -> Path:
        """Fetch the canaries to train on, an npz with `images`, `labels` and `ids`: mix them in before you train a
        model elsewhere."""
        target.write_bytes(self._calls.call("GET", f"{self.path}/{dataset}/canaries").content)
        return target

    def upload(
        self, dataset: str, file: Path, *, content_type: str | None = None, progress: Bytes | None = None
    ) -> types.Dataset:
        """Send the content in one file: Parquet, a zip of image folders, npz, or a WebDataset, recognised by its name;
        or a manifest of addresses, as CSV, NDJSON or Parquet. An image folder as it lies is sent as a zip. `job` takes
        it in."""
        try:
            with _as_file(file) as sent:
                where, form = f"{self._at(dataset)}/content", content_type or _form(sent)
                return cast("types.Dataset", self._calls.upload(where, sent, form, progress).json())
        except ProblemError as refused:
            # The reply of the try that was committed had been lost: a dataset takes its content only once.
            if not (refused.tried_again and refused.kind == "content-present"):
                raise
            found = self.get(dataset)
            found["job"] = next((job["id"] for job in self._jobs.list(dataset=dataset, kind="ingest")), None)
            return found

    def send(
        self,
        dataset: str,
        files: Sequence[Path],
        holdout: Sequence[Path] = (),
        *,
        progress: Bytes | None = None,
    ) -> types.Dataset:
        """Send the content in several files, one after the other, and close the dataset. `job` takes it in.

        holdout: files whose samples are never trained on. A file that an earlier call has sent is not sent again, and
        one that it sent in part goes on. Nor is one that another dataset of yours has and was sent as the same, for
        training or as holdout: its samples keep their splits. A folder is sent as a zip.

        Raises:
            TransferError: another file was sent as one of these before; `delete_shard` removes it.
        """
        there = {shard["number"]: shard for shard in self.shards(dataset)}
        for number, given in enumerate([*files, *holdout]):
            split = "holdout" if number >= len(files) else None
            with _as_file(given) as file:
                digest = file_digest(file)
                shard = there.get(number)
                if shard is None:
                    held = self._reuse(dataset, number, digest, split)
                    shard = held or self._send_shard(dataset, number, file, split, 0, progress)
                elif not shard["whole"]:
                    shard = self._send_shard(dataset, number, file, split, shard["size"], progress)
            if shard["digest"] != digest:
                raise TransferError(f"another file than {given.name} was sent as shard {number}")
        return self.close(dataset, len(files) + len(holdout))

    def close(self, dataset: str, shards: int) -> types.Dataset:
        """No file follows that number of shards. `job` takes them in."""
        return cast("types.Dataset", self._verb(dataset, "close", shards=shards))

    def reuse(self, dataset: str, number: int, digest: str, split: str | None = None) -> types.Shard:
        """Take a file, by its SHA-256 (`sha256:…`), from another dataset of yours that has it, sent with this split."""
        where = f"{self._at(dataset)}/shards/{number}:reuse"
        return cast("types.Shard", self._calls.post(where, {"digest": digest, "split": split}))

    def _reuse(self, dataset: str, number: int, digest: str, split: str | None) -> types.Shard | None:
        try:
            return self.reuse(dataset, number, digest, split)
        except ProblemError as refused:
            if refused.status == 404:
                return None
            raise

    def _send_shard(
        self, dataset: str, number: int, file: Path, split: str | None, offset: int, progress: Bytes | None
    ) -> types.Shard:
        path = f"{self.path}/{dataset}/shards/{number}"
        while True:
            try:
                sent = self._calls.upload(path, file, _form(file), progress, offset=offset, split=split)
                return cast("types.Shard", sent.json())
            except ProblemError as refused:
                if refused.kind == "shard-whole" and refused.tried_again:  # the reply was lost
                    return next(shard for shard in self.shards(dataset) if shard["number"] == number)
                if refused.kind != "upload-offset" or not offset < refused.problem["offset"] <= file.stat().st_size:
                    raise
                offset = refused.problem["offset"]

    def shards(self, dataset: str) -> Iterator[types.Shard]:
        """What has come of each file that was sent as a shard."""
        return cast("Iterator[types.Shard]", self._calls.pages(f"{self.path}/{dataset}/shards"))

    def delete_shard(self, dataset: str, number: int) -> None:
        self._calls.delete(f"{self.path}/{dataset}/shards/{number}")

    def report(self, dataset: str) -> types.IngestReport:
        """What was taken in, and what was converted on the way."""
        return cast("types.IngestReport", self._calls.get(f"{self.path}/{dataset}/report"))

    def preview(self, dataset: str, sample_ids: Sequence[str]) -> Sequence[types.Picture]:
        """The pictures of up to sixteen samples; needs the scope `samples`, and is logged."""
        return cast("Sequence[types.Picture]", self._verb(dataset, "preview", sample_ids=[*sample_ids]))

    def erasable(self, dataset: str) -> types.DatasetErasable:
        """What `delete` would erase, and who needs it."""
        return cast("types.DatasetErasable", self._calls.get(f"{self.path}/{dataset}:erasable"))

    def delete(self, dataset: str) -> None:
        """Erase a dataset that nobody needs."""
        self._calls.delete(f"{self.path}/{dataset}")

    def samples(self, dataset: str, split: types.Split | None = None) -> Iterator[types.Sample]:
        """The manifest: every sample that is not erased."""
        where = f"{self._at(dataset)}/samples"
        return cast("Iterator[types.Sample]", self._calls.pages(where, split=split, page_size=1000))


class Models(Collection[types.Model]):
    path = "/v1/models"

    def register(
        self,
        name: str,
        dataset: str,
        architecture: str | Choice,
        *,
        recipe: str | Choice | None = None,
        policy: Mapping[str, Any] | None = None,
        input: Mapping[str, Any] | None = None,  # noqa: A002  its name in the API
        base: Mapping[str, Any] | None = None,
        device: str | None = None,
    ) -> types.Model:
        """A classifier on a dataset. Architecture and recipe: a name of the catalog, or one with parameters. input:
        what its network sees of an image, or `{"torchvision": weights}`, `{"timm": config}` or `{"hugging_face":
        {"config": …, "preprocessor": …}}`. base: a version that training starts from, `{"model": …,
        "version": …, "never_saw": …}`. device: the label of the workers that may run its jobs."""
        chosen = {"architecture": _choice(architecture), "recipe": _choice(recipe)}
        return self._create(name=name, dataset=dataset, policy=policy, input=input, base=base, device=device, **chosen)

    def set_policy(self, model: str, policy: Mapping[str, Any], *, if_match: str | None = None) -> types.Model:
        """Replace the policy; what is left out takes its default. if_match: the ETag of the model."""
        return cast("types.Model", self._calls.put(f"{self._at(model)}/policy", dict(policy), if_match=if_match))

    def train(
        self,
        model: str,
        *,
        seed: int = 0,
        exclude_request: str | None = None,
        compare_only: bool = False,
        promote: bool = False,
    ) -> types.Job:
        """Train version 1, or a candidate beside the current one; with `promote` it takes its place. Or an exact
        retrain without a request's samples, kept to compare with."""
        compared = {"exclude_request": exclude_request, "compare_only": compare_only}
        return self._job(model, "train", seed=seed, promote=promote, **compared)

    def references(
        self,
        model: str,
        *,
        count: int = 16,
        design: Literal["halves", "folds"] = "halves",
        seed: int = 0,
        versions: Sequence[str] | None = None,
    ) -> types.Job:
        """Build the pool of reference models that audits need. design: `halves` (two are complementary), or `folds`, of
        which one left each sample out. versions: instead, ids of versions that you trained and imported."""
        if versions is not None:
            return self._job(model, "references", versions=list(versions))
        return self._job(model, "references", count=count, design=design, seed=seed)

    def send_references(
        self, model: str, file: Path, *, alike: bool = False, progress: Bytes | None = None
    ) -> types.Pool:
        """Send what your own reference models say, as an npz: `ids`, `membership`, and `log_odds` or `logits`. alike:
        your word that they were trained as the model was."""
        path = f"{self.path}/{model}/references" + ("?alike=true" if alike else "")
        return cast("types.Pool", self._calls.upload(path, file, NPZ, progress).json())

    def audit_plan(
        self, model: str, *, samples: int | None = None, people: int | None = None, margin: float | None = None
    ) -> types.AuditPlan:
        """What each kind of audit would cost, and which margin it could pass, before anything is trained."""
        asked = {"samples": samples, "people": people, "margin": margin}
        query = urlencode({name: value for name, value in asked.items() if value is not None})
        return cast("types.AuditPlan", self._calls.get(f"{self.path}/{model}:audit-plan{'?' * bool(query)}{query}"))

    def precompute(self, model: str, *, seed: int = 0) -> types.Job:
        """Precompute adversarial examples of the whole training set."""
        return self._job(model, "precompute", seed=seed)

    def audit(
        self,
        model: str,
        *,
        version: int | None = None,
        audit: Choice | None = None,
        probes: Sequence[Choice] | None = None,
        sample_ids: Sequence[str] | None = None,
        subjects: Sequence[str] | None = None,
        grouped: bool = False,
        canaries: bool = False,
    ) -> types.Job:
        """Measure a version, the current one if none is named; what was published stays.

        On `sample_ids`, or all samples of `subjects`, or on the canaries forgotten so far; else on what the version
        was made to forget.
        """
        named = {"sample_ids": None if sample_ids is None else list(sample_ids), "grouped": grouped}
        named |= {"canaries": canaries} | ({} if subjects is None else {"subjects": list(subjects)})
        shown = {"audit": audit, "probes": None if probes is None else list(probes)}
        return self._job(model, "audit", version=version, **shown, **named)

    def roll_back(self, model: str) -> types.Version:
        """Make the parent of the current version current."""
        return cast("types.Version", self._verb(model, "rollback"))

    def erasable(self, model: str, version: int | None = None) -> Json:
        """What purging the model, or deleting a version of it, would erase, and who needs it."""
        query = "" if version is None else f"?version={version}"
        return cast("Json", self._calls.get(f"{self._at(model)}:erasable{query}"))

    def purge(self, model: str) -> types.Model:
        """Purge every checkpoint of the model. This cannot be undone."""
        return cast("types.Model", self._verb(model, "purge"))

    def aliases(self, model: str, **filters: Any) -> Iterator[types.Alias]:
        return cast("Iterator[types.Alias]", self._calls.pages(f"{self._at(model)}/aliases", **filters))

    def alias(self, model: str, alias: str) -> types.Alias:
        return self.tagged_alias(model, alias)[0]

    def tagged_alias(self, model: str, alias: str) -> tuple[types.Alias, str]:
        """It and its ETag."""
        return self._calls.tagged(self._alias(model, alias))

    def set_alias(self, model: str, alias: str, version: int, *, if_match: str | None = None) -> types.Alias:
        found = self._calls.put(self._alias(model, alias), {"version": version}, if_match=if_match)
        return cast("types.Alias", found)

    def remove_alias(self, model: str, alias: str, *, if_match: str | None = None) -> None:
        self._calls.delete(self._alias(model, alias), if_match=if_match)

    def _alias(self, model: str, alias: str) -> str:
        return f"{self._at(model)}/aliases/{alias}"

    def _job(self, model: str, verb: str, **body: Any) -> types.Job:
        return cast("types.Job", self._verb(model, verb, **body))


class Versions:
    """Versions of models: named by model and number."""

    def __init__(self, calls: Transport) -> None:
        self._calls = calls

    def get(self, model: str, number: int) -> types.Version:
        return self.tagged(model, number)[0]

    def by_id(self, version: str) -> types.Version:
        """The version that an event or a webhook names."""
        return cast("types.Version", self._calls.get(f"/v1/versions/{version}"))

    def tagged(self, model: str, number: int) -> tuple[types.Version, str]:
        """It and its ETag."""
        return self._calls.tagged(_version(model, number))

    def list(self, model: str, **filters: Any) -> Iterator[types.Version]:
        return cast("Iterator[types.Version]", self._calls.pages(_versions(model), **filters))

    def import_checkpoint(
        self,
        model: str,
        file: Path,
        trained_on: Sequence[str] | Literal["train-split", "not-held"],
        *,
        stated: Mapping[str, Any] | None = None,
        progress: Bytes | None = None,
    ) -> types.Job:
        """Announce a safetensors file with the ids that it was trained on, and send it; the job takes it in. stated:
        the `accuracy` that you measured on the holdout, or on `sample_ids`, or the `logits` of up to 256 of them; the
        job refuses a checkpoint that does not agree within `tolerance`."""
        ids = trained_on if isinstance(trained_on, str) else list(trained_on)
        body: dict[str, Any] = {"digest": file_digest(file), "trained_on": ids}
        if stated is not None:
            body["stated"] = dict(stated)
        made = cast("types.Version", self._calls.post(_versions(model), body))
        return self.upload(model, made["number"], file, progress=progress)

    def upload(self, model: str, number: int, file: Path, *, progress: Bytes | None = None) -> types.Job:
        """Send the announced checkpoint."""
        path = f"{_version(model, number)}/checkpoint"
        try:
            return cast("types.Job", self._calls.upload(path, file, SAFETENSORS, progress).json())
        except ProblemError as refused:
            # The reply of the try that was committed had been lost: a model imports only its first version.
            jobs = self._calls.pages("/v1/jobs", model=model, kind="import") if refused.tried_again else iter(())
            job = next(jobs, None) if refused.status == 409 else None
            if job is None:
                raise
            return cast("types.Job", job)

    def download(
        self, model: str, number: int, target: Path, *, reason: str | None = None, progress: Bytes | None = None
    ) -> str:
        """Fetch a checkpoint to `target`, taking up what an interrupted download left; returns its digest. reason: why
        an admin fetches a version that is withheld because an unlearning replaced it; the log keeps it.

        Raises:
            TransferError: the bytes do not have the digest that the service states.
        """
        found = self.get(model, number)
        query = f"?{urlencode({'reason': reason})}" if reason else ""
        path = f"{_version(model, number)}/checkpoint{query}"
        self._calls.download(path, target, found["digest"], found["size"], progress)
        return found["digest"]

    def export(self, model: str, number: int, target: Path, form: Literal["hugging-face", "plain"] = "plain") -> Path:
        """Fetch the version as a folder that its library loads, to the new folder `target`."""
        content = self._calls.call("GET", f"{_version(model, number)}/export?form={form}").content
        if not zipfile.is_zipfile(io.BytesIO(content)):
            raise TransferError("the reply is no zip")
        target.mkdir(parents=True)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                if Path(name).name != name:
                    raise TransferError(f"the folder has a file outside itself: {name}")
                archive.extract(name, target)
        return target

    def sign(self, model: str, number: int, form: Literal["hugging-face", "plain"] = "plain") -> types.Version:
        """Have the exported folder signed (OpenSSF Model Signing); `signature` has it within seconds."""
        return cast("types.Version", self._calls.post(f"{_version(model, number)}:sign", {"form": form}))

    def signature(self, model: str, number: int, form: Literal["hugging-face", "plain"] = "plain") -> Json:
        """`bundle` (the content of `model.sig`), `public_key` and `files` of the signed folder."""
        return cast("Json", self._calls.get(f"{_version(model, number)}/signature", form=form))

    def delete(self, model: str, number: int) -> types.Version:
        """Erase the checkpoint of a version that nobody needs. This cannot be undone."""
        return cast("types.Version", self._calls.call("DELETE", _version(model, number)).json())

    def promote(self, model: str, number: int, *, if_match: str | None = None) -> types.Version:
        """Make a superseded version current again."""
        return cast("types.Version", self._calls.post(f"{_version(model, number)}:promote", if_match=if_match))

    def audits(self, model: str, number: int, **filters: Any) -> Iterator[types.Audit]:
        """The reports of a version, newest first."""
        return cast("Iterator[types.Audit]", self._calls.pages(f"{_version(model, number)}/audits", **filters))

    def negative_report(self, model: str, number: int, audit: str) -> types.Envelope:
        """The signed statement that an audit which was asked for certifies no deletion, and why."""
        return cast("types.Envelope", self._calls.get(f"{_audit(model, number, audit)}/negative-report"))

    def audit(self, model: str, number: int, audit: str | None = None) -> Json:
        """The report that the version was published with, an exact retrain beside it where there is one; or another
        of its reports."""
        return cast("Json", self._calls.get(_audit(model, number, audit)))

    def audit_page(self, model: str, number: int, audit: str | None = None) -> str:
        """The same as a self-contained HTML page."""
        return self._calls.call("GET", _audit(model, number, audit), headers={"Accept": "text/html"}).text

    def model_card(self, model: str, number: int) -> str:
        """Markdown with YAML front matter."""
        return self._calls.call("GET", f"{_version(model, number)}/model_card.md").text


@contextmanager
def _as_file(given: Path) -> Iterator[Path]:
    """A file itself; of a folder a zip, the same bytes each time, so that it can go on and be known again."""
    if not given.is_dir():
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "folder.zip"
        found = sorted(path for path in given.rglob("*") if path.is_file())
        if not found:
            raise TransferError(f"the folder {given.name} has no files")
        with zipfile.ZipFile(packed, "w") as archive:  # pictures are compressed already
            for path in found:
                with path.open("rb") as source, archive.open(_member(given, path), "w", force_zip64=True) as target:
                    shutil.copyfileobj(source, target)
        yield packed


def _member(folder: Path, path: Path) -> zipfile.ZipInfo:
    name = path.relative_to(folder).as_posix()
    try:
        name.encode()
    except UnicodeEncodeError:
        raise TransferError("the name of a file in the folder is not UTF-8") from None
    return zipfile.ZipInfo(name)


def _form(file: Path) -> str:
    return DATASET_TYPES.get(file.suffix.lower(), "application/octet-stream")


def file_digest(path: Path) -> str:
    """`sha256:` and the hex digest of a file's bytes."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _versions(model: str) -> str:
    return f"/v1/models/{quote(model, safe='')}/versions"


def _version(model: str, number: int) -> str:
    return f"{_versions(model)}/{number}"


def _audit(model: str, number: int, audit: str | None) -> str:
    return f"{_version(model, number)}/audits/{audit}" if audit else f"{_version(model, number)}/audit"


def _choice(chosen: str | Choice | None) -> Choice | None:
    return Choice(name=chosen, params={}) if isinstance(chosen, str) else chosen
