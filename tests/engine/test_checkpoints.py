import io
import json
import pickle
import struct
import zipfile

import pytest
import torch
from safetensors import safe_open
from torch import nn

from app.catalog import ResNet18Params, SmallCnnParams
from app.formats.checkpoint_header import CheckpointError, TensorSpec, read_header
from app.formats.checkpoint_names import match
from engine import checkpoints, seeding
from engine.architectures import resnet18, small_cnn


def network(seed=1):
    return seeding.seeded_model(lambda: small_cnn.build(SmallCnnParams(width=4), 1, 10), seed)


def test_what_is_saved_is_loaded_bit_for_bit_and_the_bytes_are_reproducible(tmp_path):
    metadata = {f"key{number}": str(number) for number in range(8)}
    checkpoints.save(network(), tmp_path / "a", metadata)
    checkpoints.save(network(), tmp_path / "b", dict(reversed(metadata.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    loaded = checkpoints.load(tmp_path / "a", network(2)).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in network().state_dict().items())
    with safe_open(tmp_path / "a", framework="pt") as file:
        assert file.metadata() == metadata
    with (tmp_path / "a").open("rb") as file:
        assert read_header(file).metadata == metadata


def test_buffers_counters_and_every_dtype_survive(tmp_path):
    model = nn.Module()
    for name, dtype in checkpoints.DTYPES.items():
        model.register_buffer(name, torch.tensor([[0, 1], [1, 0]]).to(dtype))
    model.register_buffer("scalar", torch.tensor(3))
    model.register_buffer("empty", torch.zeros(0, 4))
    checkpoints.save(model, tmp_path / "all", {})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for tensor in model.state_dict().values():
        tensor.zero_()
    after = checkpoints.load(tmp_path / "all", model).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


# -- the corpus of malformed files -----------------------------------------------------------------


def raw(header, data=b"\0" * 8, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(2,), span=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(span)}


def one(**changes):
    return {"a": entry(**changes)}


def zipped():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    return buffer.getvalue()


MALFORMED = {
    "empty": b"",
    "seven bytes": b"\0" * 7,
    "length only": struct.pack("<Q", 2),
    "no header": struct.pack("<Q", 0),
    "header cut off": raw(one())[:20],
    "header over 4 MiB": raw(b"{" + b" " * (4 * 2**20) + b"}"),
    "length of 2**63": struct.pack("<Q", 2**63) + b"{}",
    "pickle protocol 2": pickle.dumps({"a": [1.0] * 5}, 2),
    "pickle protocol 4": pickle.dumps({"a": [1.0] * 50}, 4),
    "zip": zipped(),
    "text": b"not a checkpoint at all, only text",
    "not JSON": raw(b"{nonsense}"),
    "not an object": raw(b"[1, 2]"),
    "leading space": raw(b' {"a": 1}'),
    "not UTF-8": raw(b'{"\xff\xfe": {}}'),
    "trailing garbage in the header": raw(json.dumps(one()).encode() + b"x"),
    "nested to the death": raw(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "a number of 10,000 digits": raw(b'{"a":{"dtype":"F32","shape":[' + b"9" * 10_000 + b'],"data_offsets":[0,8]}}'),
    "NaN as a size": raw(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}'),
    "the same name twice": raw(b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2)),
    "the same key twice inside": raw(b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
    "no tensors": raw({}, b""),
    "metadata only": raw({"__metadata__": {"a": "b"}}, b""),
    "metadata of numbers": raw({"__metadata__": {"a": 1}} | one()),
    "metadata is a list": raw({"__metadata__": []} | one()),
    "20,001 tensors": raw({f"t{number}": entry(shape=[0], span=[0, 0]) for number in range(20_001)}, b""),
    "a path for a name": raw({"../../etc/passwd": entry()}),
    "an empty name": raw({"": entry()}),
    "a name with a NUL": raw({"a\0b": entry()}),
    "a name of 300 letters": raw({"a" * 300: entry()}),
    "an entry that is no object": raw({"a": 1}),
    "an entry without dtype": raw({"a": {"shape": [2], "data_offsets": [0, 8]}}),
    "an entry with more": raw({"a": entry() | {"device": "cuda"}}),
    "an unknown dtype": raw(one(dtype="F8_E4M3")),
    "a dtype that is a list": raw(one(dtype=["F32"])),
    "a negative size": raw(one(shape=[-2])),
    "a size that is true": raw(one(shape=[True, 2])),
    "a size that is a fraction": raw(one(shape=[2.0])),
    "nine dimensions": raw(one(shape=[1] * 8 + [2])),
    "a shape that overflows": raw(one(shape=[2**40, 2**40])),
    "zero times huge": raw({"a": entry(shape=[0, 2**60], span=[0, 0]), "b": entry()}),
    "a shape larger than its span": raw(one(shape=[3])),
    "a dtype larger than its span": raw(one(dtype="F64")),
    "offsets backwards": raw(one(shape=[0], span=[8, 0])),
    "offsets of three": raw(one(span=[0, 4, 8])),
    "negative offsets": raw(one(span=[-8, 0])),
    "a hole before": raw(one(span=[4, 12]), b"\0" * 12),
    "a hole between": raw({"a": entry(), "b": entry(span=[12, 20])}, b"\0" * 20),
    "an overlap": raw({"a": entry(), "b": entry(span=[4, 12])}, b"\0" * 12),
    "the same bytes twice": raw({"a": entry(), "b": entry()}),
    "bytes after the end": raw(one(), b"\0" * 9),
    "data cut off": raw(one(), b"\0" * 7),
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_file_is_refused_with_a_reason(content):
    with pytest.raises(CheckpointError) as caught:
        read_header(io.BytesIO(content))
    assert 10 < len(caught.value.reason) < 300


@pytest.mark.parametrize("name", ["pickle protocol 2", "pickle protocol 4", "zip"])
def test_python_formats_are_told_apart_and_sent_to_the_converter(name):
    with pytest.raises(CheckpointError, match="lethe convert"):
        read_header(io.BytesIO(MALFORMED[name]))


def test_what_torch_writes_is_refused():
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        buffer = io.BytesIO()
        torch.save(network().state_dict(), buffer, **options)
        with pytest.raises(CheckpointError, match="lethe convert"):
            read_header(buffer)


def test_a_padded_header_and_a_bare_minimum_are_accepted():
    header = read_header(io.BytesIO(raw(json.dumps(one()).encode() + b"   ")))
    assert header.tensors["a"].shape == (2,)
    assert read_header(io.BytesIO(raw(one(shape=[], dtype="I64")))).tensors["a"].shape == ()


# -- against the architecture ----------------------------------------------------------------------


def altered(change):
    model = network()
    state = model.state_dict()
    change(state)
    other = nn.Module()
    other.state_dict = lambda: state  # what `save` writes
    return other


def drop(state):
    del state["0.weight"]


def add(state):
    state["extra"] = torch.zeros(1)


def reshape(state):
    state["0.weight"] = state["0.weight"].reshape(-1)


def double(state):
    state["0.weight"] = state["0.weight"].double()


def rename(state):
    state["0.wieght"] = state.pop("0.weight")


def negate(state):
    state["1.running_var"] = -state["1.running_var"]


def behead(state):
    state["13.weight"], state["13.bias"] = torch.zeros(7, 8), torch.zeros(7)


def both(state):
    state["module.0.weight"] = state["0.weight"].clone()


def spoil(value):
    def change(state):
        state["13.bias"] = state["13.bias"].clone()
        state["13.bias"][3] = value

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (drop, "missing: 0.weight"),
        (add, "no such tensors: extra; leave them out, or take the part"),
        (reshape, r"shape is \[36\], not \[4, 1, 3, 3\]"),
        (double, "dtype is F64, not F32"),
        (rename, r"missing: 0.weight; .* no such tensors: 0.wieght \(0.wieght is like 0.weight\)"),
        (negate, "1.running_var: a variance in it is negative"),
        (behead, "a head with 7 outputs, and the dataset has 10 classes"),
        (both, "0.weight and module.0.weight would both be 0.weight"),
        (spoil(float("nan")), "13.bias: it holds NaN"),
        (spoil(float("inf")), "13.bias: it holds NaN or infinite"),
    ],
)
def test_a_checkpoint_that_is_not_the_architectures_is_refused(tmp_path, change, reason):
    checkpoints.save(altered(change), tmp_path / "c", {})
    before = network(2)
    with pytest.raises(CheckpointError, match=reason):
        checkpoints.load(tmp_path / "c", before)
    assert all(
        torch.equal(a, b) for a, b in zip(before.state_dict().values(), network(2).state_dict().values(), strict=True)
    )


def test_another_head_and_another_size_of_images_are_both_said():
    there = {"pos_embed": TensorSpec("F32", (1, 197, 8), 0, 0), "head.weight": TensorSpec("F32", (1000, 8), 0, 0)}
    wanted = {"pos_embed": ("F32", (1, 65, 8)), "head.weight": ("F32", (10, 8))}
    with pytest.raises(CheckpointError) as caught:
        match(there, wanted)
    assert "the file is of a head with 1000 outputs, and the dataset has 10 classes" in str(caught.value)
    assert "it was trained on images of another size: say so in the model's `input.geometry`" in str(caught.value)


def test_long_lists_of_names_are_cut(tmp_path):
    checkpoints.save(network(), tmp_path / "c", {})
    with pytest.raises(CheckpointError, match=r"missing: .* and \d+ more"):
        checkpoints.check(tmp_path / "c", checkpoints.expected_tensors(resnet18.build(ResNet18Params(width=4), 1, 10)))


def renamed(change, **more):
    state = {change(name): tensor for name, tensor in network().state_dict().items()}
    other = nn.Module()
    other.state_dict = lambda: {**state, **more}
    return other


@pytest.mark.parametrize(
    "change",
    [
        lambda name: f"module.{name}",
        lambda name: f"model.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: f"model._orig_mod.module.{name}",
        lambda name: name.replace(".", "._orig_mod.", 1),
        lambda name: f"ema.module.{name}",
    ],
)
def test_prefixes_of_trainers_are_no_hindrance(tmp_path, change):
    checkpoints.save(renamed(change), tmp_path / "c", {})
    loaded = checkpoints.load(tmp_path / "c", network(2)).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in network().state_dict().items())


def test_averaged_weights_half_precision_and_missing_counters(tmp_path):
    averaged = renamed(lambda name: f"module.{name}", n_averaged=torch.tensor(5))
    checkpoints.save(averaged, tmp_path / "averaged", {})
    checkpoints.load(tmp_path / "averaged", network(2))
    whole = network().state_dict()
    for dtype in (torch.float16, torch.bfloat16):
        half = nn.Module()
        kept = {name: tensor for name, tensor in whole.items() if "num_batches" not in name}
        half.state_dict = lambda kept=kept, dtype=dtype: {name: tensor.to(dtype) for name, tensor in kept.items()}
        checkpoints.save(half, tmp_path / "half", {})
        loaded = checkpoints.load(tmp_path / "half", network(2)).state_dict()
        assert loaded["0.weight"].dtype == torch.float32
        assert torch.equal(loaded["0.weight"], whole["0.weight"].to(dtype).float())
        assert loaded["1.num_batches_tracked"] == 0


def test_a_network_whose_library_writes_other_names(tmp_path):
    model = network()
    model.file_names = {"0.weight": "stem.kernel"}
    checkpoints.save(model, tmp_path / "c", {})
    with safe_open(tmp_path / "c", framework="pt") as file:
        assert "stem.kernel" in file.keys()  # noqa: SIM118
    other = network(2)
    with pytest.raises(CheckpointError, match=r"stem\.kernel"):
        checkpoints.load(tmp_path / "c", other)
    other.file_names = model.file_names
    assert torch.equal(checkpoints.load(tmp_path / "c", other)[0].weight, model[0].weight)
    checkpoints.save(network(), tmp_path / "own", {})  # under the network's own names, as torch saves them
    assert torch.equal(checkpoints.load(tmp_path / "own", other)[0].weight, model[0].weight)
