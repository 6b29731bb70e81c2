"""The table of what is refused in docs/bring-your-own.md: each is tried as it says, and the answer has these words."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from app.catalog import VitParams
from engine import checkpoints, convert
from engine.architectures import vit
from tests.app.formats.test_preprocessing import CONFIG, TIMM, VIT
from tests.app.releases.test_imports import good, send
from tests.helpers import digest_of, make_safetensors, read_safetensors
from tests.support import QUICK_MODEL, Account, Document
from tests.trained import Trained

pytestmark = [
    pytest.mark.validation,
    pytest.mark.filterwarnings("ignore:.*quantiz.*", "ignore:TypedStorage is deprecated"),
]
PAGE = (Path(__file__).parents[2] / "docs" / "bring-your-own.md").read_text()
ROWS = re.findall(r"^\| (.*?) \| (.*?) \|$", PAGE.partition("## What is refused")[2], re.MULTILINE)[1:]
EXTERNAL = {"name": "external", "params": {"classes": 10, "shape": [8, 8, 1]}}

# -- what somebody tries ---------------------------------------------------------------------------


def said(response: Any) -> str:
    """The words of a problem document."""
    assert response.is_client_error, response.text
    document = response.json()
    return " ".join([document["detail"], *(fault["detail"] for fault in document.get("errors", ()))])


def body(trained: Trained, **more: Any) -> Document:
    return {"name": "tried", "dataset": trained.dataset, **QUICK_MODEL, **more}


def registered(**more: Any) -> Callable[[Trained, Path], str]:
    return lambda trained, _: said(trained.account.http.post("/v1/models", json=body(trained, **more)))


def timm(change: Document, **more: Any) -> Callable[[Trained, Path], str]:
    own = {"name": "timm", "params": {"name": "resnet18"}}
    return registered(architecture=own, input={"timm": {**TIMM, **change}}, **more)


def hugging_face(config: Document, processor: Document | None = None) -> Callable[[Trained, Path], str]:
    files = {"config": {**CONFIG, **config}, "preprocessor": {**VIT, **(processor or {})}}
    return registered(architecture={"name": "hugging_face"}, input={"hugging_face": files})


def without(document: Mapping[str, Any], name: str) -> Document:
    return {key: value for key, value in document.items() if key != name}


def converted(write: Callable[[Path], Path]) -> Callable[[Trained, Path], str]:
    """What `lethe convert` says of what `write` left in a folder."""

    def tried(_: Trained, folder: Path) -> str:
        with pytest.raises(ValueError) as caught:
            convert.convert(write(folder), folder / "out.safetensors")
        return str(caught.value)

    return tried


def saved(made: Callable[[], Any]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        torch.save(made(), folder / "model.pt")
        return folder / "model.pt"

    return write


def index(folder: Path) -> Path:
    names = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(names))
    return folder / "model.safetensors.index.json"


def quantized() -> dict[str, Any]:
    return {"weight": torch.quantize_per_tensor(torch.rand(4), 0.1, 0, torch.qint8)}


def imported(trained: Trained, data: bytes, stated: Document | None = None, **more: Any) -> str:
    """The words of the announcement's refusal, or of the import job's problem."""
    account = trained.account
    where = f"/v1/models/{account.post('/v1/models', body(trained, **more))['id']}/versions"
    announced = {"digest": digest_of(data), "trained_on": "train-split"} | ({"stated": stated} if stated else {})
    response = account.http.post(where, json=announced)
    if response.is_error:
        return said(response)
    job = send(trained, where, data).json()["id"]
    account.work()
    return failed(account, job)


def failed(account: Account, job: str) -> str:
    found = account.get(f"/v1/jobs/{job}")
    assert found["state"] == "failed", found
    return str(found["problem"]["detail"])


def changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[Trained, Path], str]:
    """An import of good weights with something done to them."""

    def tried(trained: Trained, _: Path) -> str:
        tensors = read_safetensors(good(trained))
        change(tensors)
        return imported(trained, make_safetensors(tensors))

    return tried


def behead(tensors: dict[str, Any]) -> None:
    head = [name for name, tensor in tensors.items() if tensor.shape[:1] == (10,)]
    assert len(head) == 2
    tensors.update({name: tensors[name][:7] for name in head})


def another_size(trained: Trained, folder: Path) -> str:
    params: Document = {"patch": 4, "width": 16, "depth": 1, "heads": 2}
    checkpoints.save(vit.build(VitParams(**params), 1, 10, (16, 16)), folder / "c", {})
    return imported(trained, (folder / "c").read_bytes(), architecture={"name": "vit", "params": params})


def too_small(trained: Trained, _: Path) -> str:
    network = {"name": "torchvision", "params": {"name": "alexnet"}}
    model = trained.account.post("/v1/models", body(trained, architecture=network))["id"]
    job = trained.account.post(f"/v1/models/{model}:train")["id"]
    trained.account.work()
    return failed(trained.account, job)


def stated(stated: Callable[[Trained], Document], **more: Any) -> Callable[[Trained, Path], str]:
    return lambda trained, _: imported(trained, good(trained), stated(trained), **more)


def accuracy(trained: Trained) -> float:
    found: float = trained.account.get(f"{trained.where}/versions/1")["metrics"]["accuracy_test"]
    return found


def no_holdout(trained: Trained, _: Path) -> str:
    account, buffer = trained.account, io.BytesIO()
    images, ids = np.zeros((10, 8, 8, 1), np.uint8), np.array([f"p{number}" for number in range(10)])
    np.savez(buffer, images=images, labels=np.arange(10), ids=ids, holdout=np.zeros(10, bool))
    dataset = account.post("/v1/datasets", {"name": "all", "source": {"name": "upload"}})["id"]
    kind = {"Content-Type": "application/x-npz"}
    assert account.http.put(f"/v1/datasets/{dataset}/content", content=buffer.getvalue(), headers=kind).is_success
    account.work()
    return imported(trained, good(trained), {"accuracy": 0.5}, dataset=dataset)


def base_of_unknown_data(trained: Trained, _: Path) -> str:
    account = trained.account
    theirs = account.post("/v1/datasets", {"name": "theirs", "source": EXTERNAL})["id"]
    model = account.post(
        "/v1/models", {"name": "b", "dataset": theirs, **QUICK_MODEL, "policy": {"remain": "none", "escalation": []}}
    )["id"]
    where, data = f"/v1/models/{model}/versions", good(trained)
    account.post(where, {"digest": digest_of(data), "trained_on": "not-held"})
    assert send(trained, where, data).is_success
    account.work()
    return said(account.http.post("/v1/models", json=body(trained, base={"model": model})))


def needed_version(trained: Trained, _: Path) -> str:
    account = trained.account
    assert account.http.put(f"{trained.where}/aliases/old", json={"version": 1}).is_success
    job = account.post(f"{trained.where}:train", {"promote": True})["id"]
    account.work()
    assert account.get(f"/v1/jobs/{job}")["state"] == "succeeded"
    return said(account.http.delete(f"{trained.where}/versions/1"))


def shared_name(trained: Trained, _: Path) -> str:
    for _ in range(2):
        trained.account.post("/v1/models", body(trained, name="twice"))
    return said(trained.account.http.get("/v1/models/twice"))


LINEAR = nn.Linear(2, 2).state_dict()
CFG: Document = TIMM["pretrained_cfg"]
TRIED: dict[str, Callable[[Trained, Path], str]] = {
    "mean of 2 numbers": registered(input={"mean": [0.5, 0.5]}),
    "mean of 3 numbers for grey images": registered(input={"channels": 1, "mean": [0.5, 0.5, 0.5]}),
    "`class_names` of another length": registered(input={"class_names": ["cat", "dog"]}),
    "a whole pickled module": converted(saved(lambda: nn.Linear(2, 2))),
    "two networks in a file of a trainer": converted(saved(lambda: {"student": LINEAR, "teacher": LINEAR})),
    "the index of a sharded file without its files": converted(index),
    "quantized tensors": converted(saved(quantized)),
    "weights that torchvision lacks": registered(input={"torchvision": "ResNet18_Weights.DEFAULT"}),
    "a timm configuration without `mean`": timm({"pretrained_cfg": without(CFG, "mean")}),
    "timm's `interpolation` random": timm({"pretrained_cfg": {**CFG, "interpolation": "random"}}),
    "timm's `model_args` of another network": timm({"model_args": {"depth": 3}}),
    "timm's file beside another network": timm({"architecture": "resnet34"}),
    "a file of Hugging Face beside another network": registered(
        architecture={"name": "hugging_face", "params": {"config": {"model_type": "swin"}}},
        input={"hugging_face": {"config": CONFIG, "preprocessor": VIT}},
    ),
    "an image processor of documents": hugging_face({}, {"image_processor_type": "DonutImageProcessor"}),
    "a processor that pads": hugging_face({}, {"do_pad": True}),
    "a processor without `rescale_factor`": hugging_face({}, {"rescale_factor": None}),
    "a member that nobody knows": hugging_face({}, {"tokenizer": "x"}),
    "quantized weights of Hugging Face": hugging_face({"quantization_config": {"quant_method": "gptq"}}),
    "a configuration of a billion": hugging_face({"hidden_size": 10**9}),
    "a configuration with `auto_map`": hugging_face({"auto_map": {"AutoModel": "own.py"}}),
    "a configuration of another task": hugging_face({"architectures": ["ViTForMaskedImageModeling"]}),
    "a configuration of text": hugging_face({"model_type": "bert"}),
    "`id2label` with a gap": hugging_face({"id2label": {"0": "cat", "2": "dog"}}),
    "`id2label` of another length": hugging_face({}),
    "a name that timm lacks": registered(architecture={"name": "timm", "params": {"name": "resnet18.a1_in1k"}}),
    "a network for other images": too_small,
    "a checkpoint of another head": changed(behead),
    "one letter off": changed(lambda tensors: tensors.update({"0.wieght": tensors.pop("0.weight")})),
    "the weights of a loss beside the network's": changed(
        lambda tensors: tensors.update({"criterion.weight": np.ones(10, np.float32)})
    ),
    "two models in a file": changed(lambda tensors: tensors.update({"module.0.weight": tensors["0.weight"]})),
    "a negative variance": changed(lambda tensors: tensors.update({"1.running_var": -tensors["1.running_var"]})),
    "a value that is no number": changed(lambda tensors: tensors.update({"0.weight": tensors["0.weight"] * np.nan})),
    "a transformer for another size": another_size,
    "logits of other samples": stated(
        lambda trained: {"logits": np.eye(10)[np.arange(16) % 10].tolist(), "sample_ids": trained.ids[:16]}
    ),
    "logits of another number of classes": stated(lambda it: {"logits": [[0.0, 1.0]], "sample_ids": it.ids[:1]}),
    "an accuracy of 54.8": stated(lambda _: {"accuracy": 54.8}),
    "an accuracy where nothing is held out": no_holdout,
    "the wrong mean and deviation": stated(
        lambda trained: {"accuracy": accuracy(trained)}, input={"mean": [0.5], "std": [0.1]}
    ),
    "a base that saw the data": lambda trained, _: said(
        trained.account.http.post("/v1/models", json=body(trained, base={"model": trained.model}))
    ),
    "a base on unknown data": base_of_unknown_data,
    "a linear probe without a base": registered(recipe={"name": "linear_probe"}),
    "deleting a version that is needed": needed_version,
    "a name that two models have": shared_name,
}

# -- the table -------------------------------------------------------------------------------------


def test_everything_in_the_table_is_tried_and_the_other_way_round() -> None:
    assert [tried for tried, _ in ROWS] == list(TRIED)


@pytest.mark.parametrize(("tried", "answer"), ROWS)
def test_an_answer_has_the_words_of_the_page(shared: Trained, tmp_path: Path, tried: str, answer: str) -> None:
    """`…` stands for figures of the samples at hand."""
    found = TRIED[tried](shared, tmp_path)
    assert re.search(".*".join(map(re.escape, answer.split("…"))), found), f"said: {found}"
