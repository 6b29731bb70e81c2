"""The attacks beside pgd_l2: minimum norms in closed form, what counts as found, and what they cost."""

from dataclasses import replace

import pytest
import torch

from app.catalog import FastMinNormParams, FfgsmParams, PgdL2Params, TransferParams
from engine import evaluation
from engine.attacks import held_in, radii_of
from engine.attacks.fast_min_norm import fast_min_norm
from engine.attacks.ffgsm import ffgsm
from engine.attacks.pgd_l2 import pgd_l2
from engine.attacks.steps import counted
from engine.attacks.transfer import transfer, transfer_rate
from engine.evaluation import full_precision
from engine.training import forward_of
from tests.engine.attacks.test_pgd_l2 import Scaled, Silent, digits_case, linear_case
from tests.engine.cases import original

LOW = FastMinNormParams(search="bfloat16")


def check(model, images, labels, result):
    """What holds of every row of every attack."""
    said = evaluation.logits(model, result.images, batch=17).argmax(1)
    assert torch.equal(said, result.labels)
    assert torch.equal(result.found, said != labels)
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    assert torch.allclose((result.images - images).flatten(1).norm(dim=1), result.norms, atol=1e-6)
    assert torch.equal(result.images[~result.found], images[~result.found])
    assert (result.norms <= result.radii * (1 + 1e-5)).all()


@pytest.mark.parametrize(
    ("params", "above"), [(FastMinNormParams(), 1.03), (FastMinNormParams(batch_size=7), 1.03), (LOW, 1.05)]
)
def test_on_a_linear_model_the_norm_is_the_distance_to_the_boundary(params, above):
    model, images, labels, distances = linear_case(60)
    result = fast_min_norm(model, images, labels, params)
    check(model, images, labels, result)
    assert result.found.all()
    assert (result.norms >= 0.999 * distances).all()
    assert (result.norms <= above * distances).all()


def test_pixels_at_the_wall_are_left_out_of_the_jump():
    model, images, labels, _ = linear_case(1)
    normal = model[1].weight.detach()[1 - labels[0]] - model[1].weight.detach()[labels[0]]
    walled = (normal.view_as(images[0]) > 0) & (torch.arange(36).view(6, 6) % 2 == 0)
    images[0][walled] = 1.0
    labels = evaluation.logits(model, images).argmax(1)
    margin = evaluation.logits(model, images)[0] @ (2 * torch.nn.functional.one_hot(labels[0], 2) - 1.0)
    direction = model[1].weight.detach()[1 - labels[0]] - model[1].weight.detach()[labels[0]]
    free = torch.where(walled.flatten() & (direction > 0), 0.0, direction)
    result = fast_min_norm(model, images, labels, FastMinNormParams())
    check(model, images, labels, result)
    assert result.norms[0] == pytest.approx((margin / free.norm()).item(), rel=0.03)


@pytest.mark.parametrize("params", [FastMinNormParams(search="float32"), LOW])
def test_on_digits_every_image_is_found_nearer_than_by_pgd_at_an_eighth_of_the_cost(params):
    model, images, labels = digits_case()
    with counted(model) as slow:
        far = pgd_l2(model, images, labels, PgdL2Params())
    with counted(model) as fast:
        near = fast_min_norm(model, images, labels, params)
    check(model, images, labels, near)
    assert near.found.all()
    assert near.norms.mean() <= far.norms.mean()
    assert 8 * fast.total <= slow.total


@pytest.mark.parametrize("factor", [6.0, 1000.0])
def test_confident_models_are_fooled_all_the_same(factor):
    model, images, labels = digits_case()
    confident = Scaled(model, factor)
    result = fast_min_norm(confident, images, labels, FastMinNormParams())
    check(confident, images, labels, result)
    assert result.found.all()


def test_a_row_that_one_round_misses_is_found_by_a_bolder_one():
    model, images, labels = digits_case()
    short = FastMinNormParams(steps=1, overshoot=0.0, rounds=1)
    once = fast_min_norm(model, images, labels, short)
    check(model, images, labels, once)
    assert not once.found.all()
    more = fast_min_norm(model, images, labels, short.model_copy(update={"rounds": 20, "overshoot": 0.02}))
    check(model, images, labels, more)
    assert more.found.all()
    assert more.iterations.max() > 1


def test_rows_keep_their_order_whatever_the_batches():
    model, images, labels = digits_case()
    shuffled = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
    whole = fast_min_norm(model, images, labels, FastMinNormParams())
    parts = fast_min_norm(model, images[shuffled], labels[shuffled], FastMinNormParams(batch_size=11))
    assert torch.allclose(parts.norms, whole.norms[shuffled], rtol=0.05)
    assert torch.equal(parts.labels, whole.labels[shuffled])


@pytest.mark.parametrize(("attack", "params"), [(fast_min_norm, FastMinNormParams()), (ffgsm, FfgsmParams())])
def test_what_is_mislabelled_already_is_its_own_example_and_a_zero_gradient_stays(attack, params):
    model, images, labels, _ = linear_case(10)
    labels[4] = 1 - labels[4]
    result = attack(model, images, labels, params)
    assert torch.equal(result.images[4], images[4])
    assert [result.norms[4], result.iterations[4], result.radii[4]] == [0, 0, 0]
    images = torch.rand(3, 1, 4, 4)
    nothing = attack(Silent(), images, torch.zeros(3, dtype=torch.int64), params)
    assert not nothing.found.any()
    assert torch.equal(nothing.images, images)
    assert (nothing.norms == 0).all()


@pytest.mark.parametrize(("attack", "params"), [(fast_min_norm, LOW), (ffgsm, FfgsmParams())])
def test_the_attack_leaves_the_model_as_it_was(attack, params):
    model, images, labels = digits_case(8)
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attack(model, images, labels, params)
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_sign_attack_stops_at_the_first_step_beyond_the_boundary():
    model, images, labels, distances = linear_case(80)
    params = FfgsmParams(step=0.004, steps=60, starts=1)
    result = ffgsm(model, images, labels, params)
    check(model, images, labels, result)
    normal = (model[1].weight[0] - model[1].weight[1]).detach()
    needed = (distances * normal.norm() / normal.abs().sum() / params.step).ceil()
    assert torch.equal(result.found, needed <= 60)
    found = result.found
    assert torch.allclose(result.norms[found], needed[found] * params.step * 108**0.5, rtol=1e-3)


def test_a_restart_takes_one_more_gradient_from_a_noisy_point_and_is_reproducible():
    model, images, labels = digits_case()
    first = ffgsm(model, images, labels, FfgsmParams(starts=1))
    with counted(model) as cost:
        ten = ffgsm(model, images, labels, FfgsmParams(noise=0.02))
    check(model, images, labels, ten)
    assert first.found.sum() < ten.found.sum() < len(images)
    assert set(ten.iterations[~ten.found].tolist()) == {10}
    assert torch.equal(ten.images[first.found], first.images[first.found])
    assert cost.backwards == ten.iterations.sum()
    assert torch.equal(ffgsm(model, images, labels, FfgsmParams(noise=0.02)).images, ten.images)
    assert not torch.equal(ffgsm(model, images, labels, FfgsmParams(noise=0.02, seed=1)).images, ten.images)


def given_case():
    model, images, labels = digits_case()
    return model, images, labels, pgd_l2(model, images, labels, PgdL2Params(steps=10))


def other_model():
    other = original()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    return other


def test_a_transferred_set_keeps_inputs_and_labels_of_its_model():
    _, images, labels, given = given_case()
    result = transfer(other_model(), images, labels, TransferParams(), given)
    assert torch.equal(result.images, given.images)
    assert torch.equal(result.labels, given.labels)
    assert torch.equal(result.found, given.found)
    assert (result.iterations == 0).all()


def test_a_transferred_set_can_be_cut_to_what_fools_this_model():
    _, images, labels, given = given_case()
    other = other_model()
    result = transfer(other, images, labels, TransferParams(keep="fooling"), given)
    said = evaluation.logits(other, given.images).argmax(1)
    assert torch.equal(result.found, said != labels)
    assert 0 < result.found.sum() < len(images)
    assert torch.equal(result.images[~result.found], images[~result.found])
    assert torch.equal(result.labels[result.found], given.labels[result.found])


def test_the_transfer_rate_counts_fooled_and_agreeing_answers_of_the_found():
    model, images, labels, given = given_case()
    itself = transfer_rate(model, labels, given)
    assert (itself.found, itself.fooled, itself.agreed) == (len(images), 1.0, 1.0)
    other = other_model()
    part = replace(given, found=torch.arange(len(images)) < 30)
    said = evaluation.logits(other, given.images[:30]).argmax(1)
    rate = transfer_rate(other, labels, part)
    assert rate.found == 30
    assert rate.fooled == pytest.approx((said != labels[:30]).double().mean().item())
    assert rate.agreed == pytest.approx((said == given.labels[:30]).double().mean().item())
    assert rate.fooled < 1
    nothing = transfer_rate(model, labels, replace(given, found=torch.zeros_like(given.found)))
    assert (nothing.found, nothing.fooled, nothing.agreed) == (0, None, None)


def test_a_set_of_other_images_is_refused():
    model, images, labels, given = given_case()
    with pytest.raises(ValueError, match="other images"):
        transfer(model, images.flip(0), labels, TransferParams(), given)
    with pytest.raises(ValueError, match="other images"):
        transfer(model, images[:5], labels[:5], TransferParams(), given)


def test_a_forward_counts_one_and_a_gradient_one_more():
    model, images, _ = digits_case(6)
    with counted(model) as cost:
        with torch.no_grad():
            model(images)
        free = images.clone().requires_grad_()
        torch.autograd.grad(model(free).sum(), free)
    assert (cost.forwards, cost.backwards, cost.total) == (12, 6, 18)
    model(images)
    assert cost.forwards == 12


def test_full_precision_gives_the_switches_back():
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with full_precision():
        assert not torch.backends.cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.allow_tf32
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


def test_the_ladder_of_radii_is_that_of_pgd():
    norms = torch.tensor([0.0, 0.001, 0.04, 0.0401, 0.08, 0.3, 0.64])
    assert radii_of(norms).tolist() == pytest.approx([0, 0.04, 0.04, 0.08, 0.08, 0.32, 0.64])


def test_examples_are_held_in_the_precision_in_which_they_are_learned():
    """Some that are just across the boundary in float32 carry their true label again in bfloat16."""
    model, images, labels = digits_case(200)
    result = pgd_l2(model, images, labels, PgdL2Params(steps=10))
    held = held_in(model, images, labels, result, "bfloat16", 64)
    low = forward_of(model, images.device, "bfloat16")
    with torch.no_grad():
        again = [(low(each.images).argmax(1) == labels)[result.found].float().mean().item() for each in (result, held)]
    assert again[0] > 0, "how many depends on the CPU"
    assert again[1] == 0
    said = evaluation.logits(model, held.images).argmax(1)
    assert torch.equal(said, held.labels)
    assert torch.equal(held.found, result.found)
    assert torch.allclose((held.images - images).flatten(1).norm(dim=1), held.norms, atol=1e-6)
    assert held.norms.mean() < 1.05 * result.norms.mean()
    assert held_in(model, images, labels, result, "float32", 64) is result
