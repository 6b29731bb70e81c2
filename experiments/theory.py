"""Both sides of Theorem 4.1 where its assumptions hold: linear models, squared loss, interpolation (docs/methods.md,
Theorem 4.1)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.audits import Floats

SAMPLES, FEATURES, CLASSES = 20, 60, 3
SPREADS = {"pure noise": None, "classes that generalise": 0.1}
OVERSHOOTS = (1.02, 1.5, 3.0, 10.0)


def both_sides(instances: int, seed: int = 0) -> dict[str, Any]:
    """Draw `instances` problems and, for adversarial examples at growing distance, compare

        |theta' - theta_R|^2  with  |theta_o - theta_R|^2 + (2 / beta) (L delta - C),

    C = l(f_o(x'), y) + l(f'(x'), y') - l(f_R(x), y) - l(f_R(x'), y'), and with the same without L delta and
    l(f_o(x'), y), which is tighter: -l(f'(x), y) <= 0 needs no Lipschitz step.

    l = |W x - onehot(y)|^2 / 2; theta_o and theta_R interpolate (minimum norm), so that their loss is 0;
    beta is the largest eigenvalue of the Hessian on D and x'; L bounds the loss's gradient in the input between
    x and x'. x' lies on the line to the nearest boundary, `OVERSHOOTS` times as far away as that. The samples are
    either pure noise, of which a retrained model knows nothing, or noisy copies of a class's mean, so that it does.
    """
    rows = []
    for data, spread in SPREADS.items():
        random = np.random.default_rng(seed)
        problems = [_problem(random, spread) for _ in range(instances)]
        for overshoot in OVERSHOOTS:
            found = np.array([_sides(*problem, overshoot) for problem in problems])
            left, start, right, tighter, delta = found.T
            rows.append(
                {
                    "data": data,
                    "overshoot": overshoot,
                    "delta": float(delta.mean()),
                    "holds": float((left <= right + 1e-9).mean()),
                    "tighter_holds": float((left <= tighter + 1e-9).mean()),
                    "left": float(np.median(left / start)),
                    "right": float(np.median(right / start)),
                    "tighter": float(np.median(tighter / start)),
                    "nearer_than_before": float((left < start).mean()),
                    "informative": float((right < start).mean()),
                    "tighter_informative": float((tighter < start).mean()),
                }
            )
    return {"instances": instances, "rows": rows}


def _problem(random: np.random.Generator, spread: float | None) -> tuple[Floats, NDArray[np.int64]]:
    x, labels = random.normal(size=(SAMPLES, FEATURES)), random.integers(0, CLASSES, SAMPLES)
    return (x if spread is None else random.normal(size=(CLASSES, FEATURES))[labels] + spread * x), labels


def _sides(x: Floats, labels: NDArray[np.int64], overshoot: float) -> tuple[float, float, float, float, float]:
    """Left side, |theta_o - theta_R|^2, the bound, the tighter bound and delta; sample 0 is forgotten."""
    one_hot = np.eye(CLASSES)[labels]
    original, retrained = _interpolator(x, one_hot), _interpolator(x[1:], one_hot[1:])
    near, wrong = _adversarial(original, x[0], int(labels[0]), overshoot)
    everything, targets = np.vstack([x, near]), np.vstack([one_hot, np.eye(CLASSES)[wrong]])
    beta = float(np.linalg.eigvalsh(everything @ everything.T).max())
    slope = (everything @ original.T - targets).T @ everything
    unlearned = original - slope / beta
    delta = float(np.linalg.norm(near - x[0]))
    # The residual is 0 at x and grows linearly towards x': the gradient in the input is largest there.
    lipschitz = float(np.linalg.norm(original.T @ (original @ near - one_hot[0])))
    learned_wrong = _loss(unlearned, near, targets[-1])
    of_retrained = _loss(retrained, x[0], one_hot[0]) + _loss(retrained, near, targets[-1])
    c = _loss(original, near, one_hot[0]) + learned_wrong - of_retrained
    start = float(((original - retrained) ** 2).sum())
    return (
        float(((unlearned - retrained) ** 2).sum()),
        start,
        start + 2 / beta * (lipschitz * delta - c),
        start + 2 / beta * (of_retrained - learned_wrong),
        delta,
    )


def _interpolator(x: Floats, targets: Floats) -> Floats:
    """The weights (classes, features) of least norm with W x = target for every sample."""
    weights: Floats = np.linalg.lstsq(x, targets, rcond=None)[0].T.astype(np.float64)
    return weights


def _adversarial(weights: Floats, x: Floats, label: int, overshoot: float) -> tuple[Floats, int]:
    """A point beyond the nearest boundary of a linear classifier, and what it says there."""
    logits = weights @ x
    gaps, directions = logits[label] - logits, weights - weights[label]
    lengths = np.linalg.norm(directions, axis=1)
    lengths[label] = np.inf
    distances = np.where(np.arange(CLASSES) == label, np.inf, gaps / lengths)
    nearest = int(distances.argmin())
    step = gaps[nearest] / lengths[nearest] ** 2
    near: Floats = x + overshoot * step * directions[nearest]
    return near, int((weights @ near).argmax())


def _loss(weights: Floats, x: Floats, target: Floats) -> float:
    return float(((weights @ x - target) ** 2).sum() / 2)
