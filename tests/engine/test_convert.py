"""`lethe convert`: the wrappers of trainers, sharded files, and what is refused."""

from __future__ import annotations

import json
from argparse import Namespace
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.convert import convert, main

STATE = {"layer.weight": torch.ones(2, 2), "layer.bias": torch.zeros(2)}
AVERAGED = {name: tensor + 1 for name, tensor in STATE.items()}


class Unknown:
    """A class of a trainer, which the machine that converts need not have."""

    def __setstate__(self, state):
        raise AssertionError("code of a file ran")

    def __reduce__(self):
        return Unknown, (), {"a": 1}


def prefixed(prefix):
    return {f"{prefix}{name}": tensor for name, tensor in STATE.items()}


@pytest.mark.parametrize(
    "saved",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"model": STATE, "optimizer": {"state": {}}},
        {"net": STATE, "acc": 0.5},
        {"model_state_dict": prefixed("module.")},
        {"model": {"state_dict": STATE, "name": "x"}},
        {"state_dict": STATE, "state_dict_ema": AVERAGED},
        prefixed("_orig_mod."),
        prefixed("_fsdp_wrapped_module."),
        {"layer._checkpoint_wrapped_module.weight": STATE["layer.weight"], "layer.bias": STATE["layer.bias"]},
        {"model": STATE, "args": Namespace(lr=0.1, output=PurePosixPath("x"))},  # torchvision's own training script
        {
            "state_dict": STATE,
            "best": np.float64(0.3),
            "log": defaultdict(list),
            "when": datetime(2026, 1, 1, tzinfo=UTC),
        },
        {"state_dict": STATE, "config": Unknown()},
        {"module": STATE, "rng_states": {"torch": torch.ones(3)}},  # DeepSpeed
        {"state": {"model": STATE, "optimizers": {"Adam": {"layer.weight": {"step": torch.ones(1)}}}}},
        {"params": STATE, "params_ema": AVERAGED},
        {"state_dict": {**STATE, "steps": 3, "extra": None}},
        {**STATE, **{f"ema_model.{name}": tensor for name, tensor in AVERAGED.items()}, "step": torch.ones(1)},
    ],
)
def test_the_state_dict_is_found(tmp_path, saved):
    torch.save(saved, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "a.safetensors")
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == STATE.keys()
    assert torch.equal(found["layer.weight"], STATE["layer.weight"])


def test_averaged_weights_are_taken_where_they_are_asked_for(tmp_path):
    torch.save({"state_dict": STATE, "state_dict_ema": AVERAGED}, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "a.safetensors", averaged=True)
    assert load_file(tmp_path / "a.safetensors")["layer.bias"][0] == 1
    torch.save({"state_dict": STATE}, tmp_path / "b.pt")
    with pytest.raises(ValueError, match="no averaged weights"):
        convert(tmp_path / "b.pt", tmp_path / "b.safetensors", averaged=True)


def test_averaged_weights_beside_others_in_one_dictionary(tmp_path):
    together = prefixed("model.") | {f"ema_model.{name}": tensor for name, tensor in AVERAGED.items()}
    for averaged in (False, True):
        torch.save({"state_dict": together}, tmp_path / "a.pt")
        convert(tmp_path / "a.pt", tmp_path / "a.safetensors", averaged=averaged)
        found = load_file(tmp_path / "a.safetensors")
        assert [float(tensor.flatten()[0]) for name, tensor in found.items() if name.endswith("bias")] == [averaged]
        assert len(found) == 2
    own = {"ema.decay": torch.ones(1), "head.weight": torch.ones(1)}  # a part of the network of that name
    torch.save(own, tmp_path / "b.pt")
    convert(tmp_path / "b.pt", tmp_path / "b.safetensors")
    assert load_file(tmp_path / "b.safetensors").keys() == own.keys()


def test_one_of_several_networks_is_named(tmp_path):
    torch.save({"student": STATE, "teacher": AVERAGED}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"several state dicts: student, teacher; name one with --member"):
        convert(tmp_path / "a.pt", tmp_path / "a.safetensors")
    convert(tmp_path / "a.pt", tmp_path / "a.safetensors", member="teacher")
    assert load_file(tmp_path / "a.safetensors")["layer.bias"][0] == 1
    torch.save({"state_dict": prefixed("net.") | {"criterion.weight": torch.ones(2)}}, tmp_path / "b.pt")
    convert(tmp_path / "b.pt", tmp_path / "b.safetensors", member="net")
    assert load_file(tmp_path / "b.safetensors").keys() == STATE.keys()
    with pytest.raises(ValueError, match="no member nets; its names begin with criterion, net"):
        convert(tmp_path / "b.pt", tmp_path / "b.safetensors", member="nets")


def test_a_whole_module_is_refused_with_what_to_save(tmp_path):
    for saved in (torch.nn.Linear(2, 2), {"model": torch.nn.Linear(2, 2)}):
        torch.save(saved, tmp_path / "a.pt")
        with pytest.raises(ValueError, match=r"a whole module: save its `state_dict\(\)`"):
            convert(tmp_path / "a.pt", tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.pt", b"nothing", "cannot be read as a checkpoint"),
        ("a.pt", b"", "cannot be read as a checkpoint"),
        ("a.safetensors", b"nothing of the kind", "cannot be read as a checkpoint"),
        ("a.index.json", b"{", "lethe convert: "),
        ("a.index.json", b"[]", "no index of a sharded file"),
        ("a.index.json", b'{"weight_map": {"a": ["b"]}}', "no index of a sharded file"),
        ("a.index.json", b'{"weight_map": {"a": "b.safetensors"}}', "has no such file"),
    ],
)
def test_what_is_no_checkpoint_ends_with_a_line(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SystemExit, match=reason):
        main([str(tmp_path / name), str(tmp_path / "out.safetensors")])
    assert not (tmp_path / "out.safetensors").exists()


def test_sharded_files(tmp_path):
    names = list(STATE)
    where = {}
    for number, name in enumerate(names):
        file = f"model-{number + 1:05d}-of-00002.safetensors"
        save_file({name: STATE[name]}, tmp_path / file)
        where[name] = file
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    convert(index, tmp_path / "whole.safetensors")
    assert load_file(tmp_path / "whole.safetensors").keys() == STATE.keys()
    for wrong, reason in [
        ({**where, "other": where[names[0]]}, "lack other"),
        ({names[0]: where[names[0]], names[1]: where[names[0]]}, "lack layer"),
        ({**where, names[0]: "../model.safetensors"}, "outside its folder"),
        ({}, "no `weight_map`"),
    ]:
        index.write_text(json.dumps({"weight_map": wrong}))
        with pytest.raises(ValueError, match=reason):
            convert(index, tmp_path / "wrong.safetensors")
    assert not (tmp_path / "wrong.safetensors").exists()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_two_names_that_would_become_one_are_refused(tmp_path, prefix):
    torch.save({**STATE, f"{prefix}layer.bias": torch.ones(2)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=rf"layer.bias and {prefix}layer.bias would both be layer.bias"):
        convert(tmp_path / "a.pt", tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()


@pytest.mark.parametrize(
    "saved", [{}, {"epoch": 3}, [torch.ones(1)], {"state_dict": [1]}, {"epoch": 3, "optimizer": {"a": torch.ones(1)}}]
)
def test_what_holds_no_state_dict_is_refused(tmp_path, saved):
    torch.save(saved, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="does not hold a state dict"):
        convert(tmp_path / "a.pt", tmp_path / "a.safetensors")
