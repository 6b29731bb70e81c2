import pytest
import torch
from torch import nn

from engine import evaluation, seeding


def test_a_derived_seed_is_stable_and_63_bits_wide():
    assert seeding.derive(7, "reference", 3) == 6439419146323720305
    assert all(0 <= seeding.derive(seed, "x") < 2**63 for seed in range(200))


def test_derived_seeds_differ_by_seed_by_name_and_by_how_names_are_cut():
    seeds = {
        seeding.derive(1),
        seeding.derive(1, "a"),
        seeding.derive(2, "a"),
        seeding.derive(1, "a", "b"),
        seeding.derive(1, "ab"),
        seeding.derive(1, 1),
        seeding.derive(1, "1"),
    }
    assert len(seeds) == 7


def test_a_seeded_model_depends_on_its_seed_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    weights = [seeding.seeded_model(lambda: nn.Linear(4, 4), seed).weight for seed in (1, 1, 2)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.rand(3), expected)


def test_determinism_ends_with_its_block():
    before = torch.are_deterministic_algorithms_enabled()
    with seeding.deterministic():
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.are_deterministic_algorithms_enabled() is before


def test_the_environment_names_versions_and_threads():
    record = seeding.environment()
    assert record["torch"] == torch.__version__
    assert record["threads"] == str(torch.get_num_threads())
    assert {"python", "numpy", "device", "lethe"} < set(record)
    assert (record["precision"], record["tf32"]) == ("float32", "none")


@pytest.fixture
def matmul_and_convolution():
    """The two switches of TF32, to be set by a test and put back."""
    with evaluation.full_precision():
        yield torch.backends.cuda.matmul, torch.backends.cudnn


def test_the_record_says_what_a_gpu_may_round(monkeypatch, matmul_and_convolution):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU of a kind")
    matmul, convolution = matmul_and_convolution
    convolution.allow_tf32 = True
    assert seeding.arithmetic("cuda", "bfloat16") == {
        "device": "cuda (GPU of a kind)",
        "precision": "bfloat16",
        "tf32": "convolution",
    }
    matmul.allow_tf32, convolution.allow_tf32 = True, False
    assert seeding.arithmetic("cuda", "float32")["tf32"] == "matmul"
    matmul.allow_tf32 = False
    assert seeding.arithmetic("cuda", "float32")["tf32"] == "none"


def test_what_is_measured_is_measured_without_tf32(matmul_and_convolution):
    matmul, convolution = matmul_and_convolution
    matmul.allow_tf32, convolution.allow_tf32, seen = True, True, []
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    model.register_forward_hook(lambda *_: seen.append((convolution.allow_tf32, matmul.allow_tf32)))
    evaluation.logits(model, torch.rand(3, 1, 2, 2))
    assert seen == [(False, False)]
    assert convolution.allow_tf32
    assert matmul.allow_tf32


def test_drawing_gives_the_global_generator_back():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with seeding.drawing(3):
        first = torch.rand(2)
    with seeding.drawing(3):
        assert torch.equal(torch.rand(2), first)
    assert torch.equal(torch.rand(2), expected)
