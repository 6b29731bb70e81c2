"""`lethe convert`: the wrappers of trainers, sharded files, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.convert import convert

STATE = {"layer.weight": torch.ones(2, 2), "layer.bias": torch.zeros(2)}
AVERAGED = {name: tensor + 1 for name, tensor in STATE.items()}


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


@pytest.mark.parametrize("saved", [{}, {"epoch": 3}, [torch.ones(1)], {"state_dict": [1]}])
def test_what_holds_no_state_dict_is_refused(tmp_path, saved):
    torch.save(saved, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="does not hold a state dict"):
        convert(tmp_path / "a.pt", tmp_path / "a.safetensors")
