"""Every name of the catalog, odd forget sets and a device that is too small, through the API and a worker."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch

from app import catalog
from engine import checkpoints, places, training
from engine.architectures import torchvision_model
from engine.attacks.pgd_l2 import pgd_l2
from engine.data.samples import Samples
from tests.catalog_cases import named
from tests.support import QUICK_MODEL, QUICK_POLICY, Document
from tests.trained import Trained

QUICK = {
    "sgd": {"epochs": 1},
    "fast": {"epochs": 1},
    "trades": {"epochs": 1, "steps": 1, "augment": "none"},
    "spectral_clipping": {"epochs": 1, "every": 5},
    "fine_tuned": {"epochs": 1, "warmup_epochs": 0.5},
}


def model(shared: Trained, architecture: Document, recipe: Document, **policy: Any) -> Document:
    body = {
        "name": "m",
        "dataset": shared.dataset,
        "architecture": architecture,
        "recipe": recipe,
        "policy": QUICK_POLICY | policy,
    }
    return shared.account.post("/v1/models", body)


def trained_job(shared: Trained, made: Document) -> Document:
    job = shared.account.post(f"/v1/models/{made['id']}:train", {"seed": 1})
    shared.account.work()
    return shared.account.get(f"/v1/jobs/{job['id']}")


SMALL = {"name": "small_cnn", "params": {"width": 4}}


def unlearned(shared: Trained, ids: list[str], **policy: Any) -> tuple[Document, Document]:
    """A model of that policy is trained and let forget `ids`: model and job."""
    made = model(shared, **QUICK_MODEL, **policy)
    assert trained_job(shared, made)["state"] == "succeeded"
    shared.forget(ids, model=made["id"])
    return made, shared.account.get("/v1/jobs", model=made["id"], kind="unlearn")["items"][0]


def report_of(shared: Trained, made: Document, job: Document) -> Document:
    assert job["state"] == "succeeded", job
    return dict(shared.account.get(f"/v1/models/{made['id']}/versions/2/audit")["report"])


@pytest.mark.parametrize("name", catalog.METHODS)
def test_every_method_makes_a_version_and_its_report(shared: Trained, name: str) -> None:
    method = {"name": name, "params": dict(catalog.METHODS[name].example)}
    report = report_of(shared, *unlearned(shared, shared.ids[:12], method=method, escalation=[]))
    assert (report["method"], report["forget_samples"]) == (name, 12)
    assert report["candidate"]["ft_auc"]["positives"] == 12
    assert report["checkpoint"] != report["parent_checkpoint"]


@pytest.mark.parametrize("name", sorted(name for name, entry in catalog.METHODS.items() if not entry.needs_remain))
def test_the_methods_that_can_work_on_the_forget_set_alone(shared: Trained, name: str) -> None:
    method = {"name": name, "params": dict(catalog.METHODS[name].example)}
    report = report_of(shared, *unlearned(shared, shared.ids[:12], method=method, remain="none"))
    assert (report["method"], report["remain_access"]) == (name, "none")


def test_a_part_of_the_remain_set_is_enough_for_a_method_that_needs_one(shared: Trained) -> None:
    method = {"name": "fine_tune", "params": dict(catalog.METHODS["fine_tune"].example)}
    policy = {"method": method, "remain": "subsample", "remain_ratio": 3.0}
    report = report_of(shared, *unlearned(shared, shared.ids[:12], **policy))
    assert (report["method"], report["remain_access"]) == ("fine_tune", "subsample")


@pytest.mark.parametrize("name", catalog.ATTACKS)
def test_every_attack_finds_the_adversarial_set_of_a_deletion(shared: Trained, name: str) -> None:
    """The set that `transfer` takes over is one that was searched before, by the attack of then."""
    made = model(shared, **QUICK_MODEL)
    assert trained_job(shared, made)["state"] == "succeeded"
    where = f"/v1/models/{made['id']}"
    if catalog.ATTACKS[name].needs_given:
        shared.account.post(f"{where}:precompute", {})
        shared.account.work()
    policy = QUICK_POLICY | {"attack": {"name": name}}
    assert shared.account.http.put(f"{where}/policy", json=policy).is_success
    shared.forget(shared.ids[:12], model=made["id"])
    adversarial = shared.account.get(f"{where}/versions/2/audit")["report"]["adversarial"]
    assert (adversarial["attack"], adversarial["total"]) == (name, 12)
    assert adversarial["found"] > 0


@pytest.mark.parametrize("name", catalog.AUDITS)
def test_every_audit_judges_a_deletion(shared: Trained, name: str) -> None:
    report = report_of(shared, *unlearned(shared, shared.ids[:12], audit={"name": name}))
    assert report["audit"] == name
    assert report["candidate"]["ft_auc"]["positives"] == 12
    assert report["judgement"]["null_source"] == "exchangeable"


@pytest.mark.parametrize("name", named("architectures"))
def test_every_architecture_is_trained_and_forgets(shared: Trained, name: str) -> None:
    architecture = {"name": name, "params": dict(catalog.ARCHITECTURES[name].example)}
    policy = {"method": {"name": "amun", "params": {"epochs": 1}}, "attack": {"name": "fast_min_norm"}}
    made = model(shared, architecture, {"name": "sgd", "params": {"epochs": 1}}, **policy)
    assert trained_job(shared, made)["state"] == "succeeded"
    shared.forget(shared.ids[:12], model=made["id"])
    report = shared.account.get(f"/v1/models/{made['id']}/versions/2/audit")["report"]
    assert (report["judgement"]["verdict"], report["judgement"]["reason"]) == ("inconclusive", "no references")


@pytest.mark.parametrize("kind", ["one", "class", "half"])
@pytest.mark.validation
def test_odd_forget_sets_end_in_a_version_with_a_verdict(trained: Trained, kind: str) -> None:
    page = trained.account.get(f"/v1/datasets/{trained.dataset}/samples", split="train", page_size=1000)
    everyone = page["items"]
    chosen = {
        "one": everyone[:1],
        "class": [item for item in everyone if item["label"] == 0],
        "half": everyone[::2],
    }[kind]
    policy = {"method": {"name": "amun", "params": {"epochs": 1}}}
    assert trained.account.http.put(f"{trained.where}/policy", json=QUICK_POLICY | policy).is_success
    request = trained.forget([item["id"] for item in chosen], allow_data_loss=kind == "class")
    assert request["status"] == "fulfilled"
    report = trained.account.get(f"{trained.where}/versions/2/audit")["report"]
    assert report["forget_samples"] == len(chosen)
    judgement = report["judgement"]
    if kind == "one":
        assert (judgement["verdict"], judgement["smallest_margin"]) == ("inconclusive", None)
    if kind == "class":
        assert judgement["null_source"] in ("same_classes", "none")


def test_a_method_that_diverges_stops_its_job_with_a_reason_and_the_parent_stays_current(shared: Trained) -> None:
    wild = {"epochs": 4, "batch_size": 8, "learning_rate": 10.0, "weight_decay": 0.9}
    made, job = unlearned(shared, shared.ids[:12], method={"name": "amun", "params": wild}, escalation=[])
    assert (job["state"], job["problem"]["type"].rpartition("/")[2]) == ("failed", "method-failed")
    assert "diverged" in job["problem"]["detail"]
    assert shared.account.get(f"/v1/models/{made['id']}")["current_version"] == 1
    request = shared.account.get("/v1/deletion-requests", model=made["id"])["items"][0]
    assert request["status"] == "needs-attention"


@pytest.mark.parametrize("name", [name for name in catalog.RECIPES if name != "linear_probe"])
def test_every_recipe_trains_a_version_whose_checkpoint_says_how_it_was_computed(shared: Trained, name: str) -> None:
    made = model(shared, SMALL, {"name": name, "params": QUICK[name]})
    job = trained_job(shared, made)
    assert job["state"] == "succeeded", job
    response = shared.account.http.get(f"/v1/models/{made['id']}/versions/1/checkpoint")
    length = int.from_bytes(response.content[:8], "little")
    header = response.content[8 : 8 + length].decode()
    precision = "bfloat16" if name == "fast" else "float32"
    assert f'\\"precision\\": \\"{precision}\\"' in header
    assert '\\"tf32\\": \\"none\\"' in header


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ({"name": "torchvision", "params": {"name": "alexnet"}}, "alexnet cannot take images of 8x8 pixels"),
        ({"name": "vit", "params": {"patch": 3}}, "patches of 3 pixels do not fill images of 8x8"),
    ],
)
def test_an_architecture_that_cannot_take_the_images_ends_the_job_with_the_reason(
    shared: Trained, architecture: Document, reason: str
) -> None:
    job = trained_job(shared, model(shared, architecture, {"name": "sgd", "params": {"epochs": 1}}))
    assert job["state"] == "failed"
    assert reason in job["problem"]["detail"]


def test_a_torchvision_classifier_is_trained_and_its_own_checkpoint_imported(shared: Trained, tmp_path: Any) -> None:
    architecture = {"name": "torchvision", "params": {"name": "resnet18"}}
    account, made = shared.account, model(shared, architecture, {"name": "sgd", "params": {"epochs": 1}})
    theirs = torchvision_model.import_torchvision().models.resnet18(num_classes=10)
    checkpoints.save(theirs, tmp_path / "theirs", {})
    content = (tmp_path / "theirs").read_bytes()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    where = f"/v1/models/{made['id']}/versions"
    account.post(where, {"digest": digest, "trained_on": "train-split"})
    kind = {"Content-Type": "application/vnd.safetensors"}
    response = account.http.put(f"{where}/1/checkpoint", content=content, headers=kind)
    assert response.is_success, response.text
    account.work()
    assert account.get(f"{where}/1")["state"] == "current"


@pytest.mark.parametrize("fits", [64, 0])
def test_a_device_that_is_too_small_is_worked_around_or_named(
    shared: Trained, monkeypatch: pytest.MonkeyPatch, fits: int
) -> None:
    forward_of = training.forward_of

    def limited(*options: Any) -> training.Forward:
        forward = forward_of(*options)

        def run(images: torch.Tensor) -> torch.Tensor:
            if len(images) > fits:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(images)

        return run

    monkeypatch.setattr(training, "forward_of", limited)
    recipe = {"name": "sgd", "params": {"epochs": 1, "batch_size": 256}}
    job = trained_job(shared, model(shared, SMALL, recipe))
    if fits:
        assert job["state"] == "succeeded"
    else:
        assert (job["state"], job["problem"]["type"].rpartition("/")[2]) == ("failed", "device-memory")
        assert "memory" in job["problem"]["detail"]


@pytest.mark.validation
def test_a_deletion_works_on_samples_that_stay_in_their_file(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, open_samples = [], Samples.open

    def mapped(*where: Any) -> Samples:
        opened.append(open_samples(*where, resident=False))
        return opened[-1]

    monkeypatch.setattr(Samples, "open", mapped)
    assert trained.forget(trained.ids[:5])["status"] == "fulfilled"
    assert opened
    assert all(samples.mapped for samples in opened)
    report = trained.account.get(f"{trained.where}/versions/2/audit")["report"]
    assert (report["environment"]["precision"], report["environment"]["tf32"]) == ("float32", "none")


@pytest.mark.validation
def test_an_attack_takes_smaller_batches_on_a_small_device(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def limited(model: Any, images: Any, labels: Any, params: Any) -> Any:
        tried.append(params.batch_size)
        if params.batch_size > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return pgd_l2(model, images, labels, params)

    monkeypatch.setattr(places, "attack", {"pgd_l2": limited}.__getitem__)
    assert trained.forget(trained.ids[:5])["status"] == "fulfilled"
    assert tried == [512, 256, 128, 64]
