import math

import pytest
import torch
from torch import nn

from app.catalog import CertifiedNewtonParams
from engine import seeding
from engine.data.samples import Samples, Split, to_float
from engine.errors import DivergedError
from engine.methods.certified_newton import certified_newton
from engine.methods.newton import conjugate_gradient, forward_mode, gradient, hessian_product, lissa, loss_of_weights
from tests.engine.cases import original, same
from tests.engine.methods.cases import context, run, split

CG = {"solver": "conjugate_gradient", "noise": 0, "cg_iterations": 200, "cg_tolerance": 1e-6}


def silent(_done):
    pass


def matrix(eigenvalues, seed=0):
    turn, _ = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=seeding.generator(seed)))
    return turn @ torch.diag(torch.tensor(eigenvalues)) @ turn.T


def squared(outputs, labels):
    return 0.5 * (outputs[:, 0] - labels).square().mean()


def regression(n=60):
    """A linear model of four pixels and a squared loss: its optimum is the solution of normal equations."""
    images = torch.randint(0, 256, (n, 1, 2, 2), dtype=torch.uint8, generator=seeding.generator(1))
    labels = torch.randint(0, 5, (n,), generator=seeding.generator(2))
    model = seeding.seeded_model(lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 1)), 3)
    return model, Split(Samples(images, labels), torch.arange(10), torch.arange(10, n), torch.arange(0))


def exact_step(model, case, damping, decay):
    """Weights after a damped Newton step, by dense algebra."""
    inputs = to_float(case.samples.images[case.remain]).flatten(1).double()
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1, dtype=torch.float64)], 1)
    labels = case.samples.labels[case.remain].double()
    start = torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).double()
    hessian = inputs.T @ inputs / len(inputs) + decay * torch.eye(5, dtype=torch.float64)
    g = inputs.T @ (inputs @ start - labels) / len(inputs) + decay * start
    return start - torch.linalg.solve(hessian + damping * torch.eye(5, dtype=torch.float64), g)


@pytest.mark.parametrize("batch_size", [7, 512])
@pytest.mark.parametrize(("damping", "decay"), [(1e-7, 0.0), (0.3, 0.02)])
def test_the_step_is_exact_on_a_quadratic(damping, decay, batch_size):
    model, case = regression()
    expected = exact_step(model, case, damping, decay)
    params = CertifiedNewtonParams(damping=damping, weight_decay=decay, batch_size=batch_size, **CG)
    after = certified_newton(model, case, params, None, context(), squared)
    got = torch.cat([parameter.detach().flatten() for parameter in after.parameters()])
    assert torch.allclose(got.double(), expected, atol=2e-4)


def test_without_damping_the_step_lands_on_the_optimum_of_the_remain_set():
    model, case = regression()
    params = CertifiedNewtonParams(damping=1e-7, weight_decay=0, **CG)
    after = certified_newton(model, case, params, None, context(), squared)
    images = to_float(case.samples.images[case.remain])
    at_rest = gradient(
        loss_of_weights(after, squared),
        torch.cat([parameter.detach().flatten() for parameter in after.parameters()]),
        images,
        case.samples.labels[case.remain],
    )
    assert at_rest.abs().max() < 1e-4


def test_lissa_comes_near_the_exact_step():
    model, case = regression()
    expected = exact_step(model, case, 0.3, 0.0)
    start = torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).double()
    params = CertifiedNewtonParams(
        damping=0.3, weight_decay=0, noise=0, lissa_scale=20, lissa_steps=500, lissa_chains=2, lissa_batch_size=20
    )
    after = certified_newton(model, case, params, None, context(), squared)
    got = torch.cat([parameter.detach().flatten() for parameter in after.parameters()]).double()
    assert (got - expected).norm() < 0.15 * (start - expected).norm()


def test_a_hessian_product_equals_the_dense_hessian():
    model = seeding.seeded_model(
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3),
            nn.BatchNorm2d(2),
            nn.Softplus(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(2, 3),
        ),
        1,
    ).eval()
    images, labels = torch.rand(6, 1, 6, 6, generator=seeding.generator(1)), torch.arange(6) % 3
    value = loss_of_weights(model, nn.functional.cross_entropy)
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    dense = torch.autograd.functional.hessian(lambda at: value(at, images, labels), weights)
    vector = torch.randn(len(weights), generator=seeding.generator(2))
    with forward_mode():
        assert torch.allclose(hessian_product(value, weights, images, labels, vector), dense @ vector, atol=1e-5)


def test_conjugate_gradient_solves_and_stops_early():
    a, g = matrix([0.1, 1.0, 2.0, 5.0, 9.0]), torch.arange(1.0, 6.0)
    seen = []
    x = conjugate_gradient(lambda v: a @ v, g, 50, 1e-5, seen.append)
    assert torch.allclose(a @ x, g, atol=1e-3)
    assert len(seen) <= 8
    assert conjugate_gradient(lambda v: a @ v, torch.zeros(5), 50, 1e-5, silent).tolist() == [0] * 5


def test_conjugate_gradient_refuses_negative_curvature():
    a = matrix([-0.5, 1.0, 2.0])
    with pytest.raises(DivergedError, match="raise the damping"):
        conjugate_gradient(lambda v: a @ v, torch.ones(3), 50, 1e-6, silent)


def test_lissa_is_the_truncated_series():
    a, g = matrix([0.2, 1.0, 3.0]), torch.tensor([1.0, -2.0, 0.5])
    expected, power = torch.zeros(3), g
    for _ in range(31):
        expected, power = expected + power / 4, power - a @ power / 4
    assert torch.allclose(lissa(lambda v: a @ v, g, 4.0, 30, silent), expected, atol=1e-5)
    assert torch.allclose(lissa(lambda v: a @ v, g, 4.0, 2000, silent), torch.linalg.solve(a, g), atol=1e-4)


@pytest.mark.parametrize("eigenvalues", [[1.0, 9.0], [-0.5, 1.0], [math.nan, 1.0]])
def test_lissa_sees_that_it_diverges(eigenvalues):
    """Curvature above twice the scale of 4, and below zero."""
    a = matrix(eigenvalues)
    with pytest.raises(DivergedError, match="lissa_scale"):
        lissa(lambda v: a @ v, torch.ones(2), 4.0, 200, silent)


def test_too_small_a_scale_stops_the_method_on_a_network():
    with pytest.raises(DivergedError, match="diverges"):
        run("certified_newton", split(), lissa_scale=0.01, lissa_steps=60, lissa_chains=1)


def test_noise_has_the_standard_deviation_asked_for_and_nothing_else_moves():
    quick = {"lissa_steps": 5, "lissa_chains": 1}
    still, noisy = (run("certified_newton", split(), noise=sigma, **quick) for sigma in (0, 0.05))
    differences = torch.cat(
        [(one - other).flatten() for one, other in zip(noisy.parameters(), still.parameters(), strict=True)]
    ).detach()
    assert differences.std().item() == pytest.approx(0.05, rel=0.03)
    assert abs(differences.mean().item()) < 0.002
    for model in (still, noisy):
        for one, other in zip(model.buffers(), original().buffers(), strict=True):
            assert torch.equal(one, other)
    assert not same(still, original())


def test_the_forget_set_is_never_looked_at():
    whole = split()
    images = whole.samples.images.clone()
    images[whole.forget] = 255 - images[whole.forget]
    altered = Split(Samples(images, whole.samples.labels), whole.forget, whole.remain, whole.holdout)
    quick = {"lissa_steps": 5, "lissa_chains": 1}
    assert same(run("certified_newton", whole, **quick), run("certified_newton", altered, **quick))
