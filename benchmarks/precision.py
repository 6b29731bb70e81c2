"""Adversarial examples in the precision in which they are learned: what bfloat16 undoes, and what it does to FT-AUC."""

from __future__ import annotations

import numpy as np
import torch

from app.catalog import AmunParams, PgdL2Params, RmiaParams, SgdRecipe, SmallCnnParams
from app.catalog.sources import DigitsSource
from engine import evaluation, references, seeding
from engine.architectures import small_cnn
from engine.attacks import held_in
from engine.attacks.pgd_l2 import pgd_l2
from engine.audits import roc, scoring
from engine.audits.groups import Groups
from engine.data.samples import Samples, Split, gather, to_float
from engine.data.sources import digits
from engine.methods import MethodContext
from engine.methods.amun import amun
from engine.recipes import Recipe
from engine.recipes.sgd import sgd
from engine.training import NullProgress, forward_of

SETS, REFERENCES, SIZE, TRIES = 8, 8, 90, 4
AMUN = AmunParams(learning_rate=0.15, decay_every=5, batch_size=64)


def bfloat16_examples() -> dict[str, object]:
    """AMUN on noisy digits, trained and tuned in bfloat16: eight forget sets, three ways to treat its examples."""
    torch.set_num_threads(1)
    raw = digits(DigitsSource(noise=0.3))
    samples = Samples.from_arrays(raw.images, raw.labels)
    recipe = Recipe(sgd, SgdRecipe(epochs=30, batch_size=64, precision="bfloat16"))
    single = Recipe(sgd, SgdRecipe(epochs=30, batch_size=64))
    build = lambda: small_cnn.build(SmallCnnParams(), 1, 10)  # noqa: E731
    train, holdout = np.flatnonzero(~raw.holdout), np.flatnonzero(raw.holdout)
    design = references.membership(REFERENCES, samples.n, 1)
    pool = scoring.pool_of(
        references.stack(
            [
                references.train_reference(k, design, samples, recipe, build, 2, NullProgress())
                for k in range(REFERENCES)
            ]
        ),
        raw.labels,
        RmiaParams(),
    )
    original = seeding.seeded_model(build, 1)
    recipe.train(original, samples, torch.from_numpy(train), seeding.generator(1), NullProgress())
    low = forward_of(original, torch.device("cpu"), "bfloat16")
    found: dict[str, list[float]] = {}
    for number in range(SETS):
        forget = np.sort(np.random.default_rng(number).choice(train, SIZE, replace=False))
        split = Split(samples, *(torch.from_numpy(each) for each in (forget, np.setdiff1d(train, forget), holdout)))
        images, labels = to_float(gather(samples.images, split.forget)), samples.labels[split.forget]
        plain = pgd_l2(original, images, labels, PgdL2Params(steps=10))
        held = held_in(original, images, labels, plain, "bfloat16", 512)
        for name, each in (("plain", plain), ("held", held)):
            with torch.no_grad(), evaluation.eval_mode(original):
                again = (low(each.images).argmax(1) == labels)[each.found]
            found.setdefault(f"true_label_again_{name}", []).append(float(again.float().mean()))
            found.setdefault(f"norm_{name}", []).append(float(each.norms.mean()))
        ways = {"bfloat16_plain": (plain, recipe), "bfloat16_held": (held, recipe), "float32_plain": (plain, single)}
        for name, (examples, way) in ways.items():
            scores = [_ft_auc(original, build, split, examples, way, pool, raw.labels, t) for t in range(TRIES)]
            found.setdefault(f"ft_auc_{name}", []).append(float(np.mean(scores)))
        retrained = seeding.seeded_model(build, 100 + number)
        recipe.train(retrained, samples, split.remain, seeding.generator(100 + number), NullProgress())
        found.setdefault("ft_auc_retrained", []).append(_auc(retrained, split, pool, raw.labels))
    figures: dict[str, object] = {name: float(np.mean(each)) for name, each in found.items()}
    for name in ("bfloat16_held", "float32_plain"):
        apart = np.array(found[f"ft_auc_{name}"]) - np.array(found["ft_auc_bfloat16_plain"])
        figures[f"difference_{name}"] = float(apart.mean())
        figures[f"half_width_{name}"] = float(2.365 * apart.std(ddof=1) / np.sqrt(SETS))
    gate = float(np.mean(found["true_label_again_held"])) <= 0.01
    return figures | {"gate": "at most 1 % of the held examples carry the true label again", "gate_passed": gate}


def _ft_auc(original, build, split, examples, way, pool, labels, seed) -> float:  # type: ignore[no-untyped-def]
    model = build()
    model.load_state_dict(original.state_dict())
    context = MethodContext(seeding.generator(seed), NullProgress(), way, build)
    return _auc(amun(model, split, AMUN, examples, context), split, pool, labels)


def _auc(model, split, pool, labels) -> float:  # type: ignore[no-untyped-def]
    groups = Groups(*(each.numpy() for each in (split.forget, split.remain, split.holdout)))
    logits = evaluation.logits(model, split.samples.images).numpy()
    values = scoring.plain_scores(logits, labels, groups, pool, RmiaParams())
    return roc.auc(values[groups.forget], values[groups.test])
