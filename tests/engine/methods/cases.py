"""What the tests of methods share: a small split of the digits, a context, and what they measure."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import torch
from torch import nn

from app import catalog
from app.catalog import PgdL2Params
from engine import evaluation, places, seeding
from engine.attacks.pgd_l2 import pgd_l2
from engine.audits.rmia import log_odds
from engine.data.samples import Split, gather, to_float
from engine.methods import MethodContext
from engine.training import NullProgress
from tests.engine.cases import RECIPE, digits, original, small_network, train_positions


def context(recipe=RECIPE, progress=None):
    return MethodContext(
        seeding.generator(11), progress or NullProgress(), recipe, lambda: seeding.seeded_model(small_network, 12)
    )


def split(forgotten=90):
    raw, samples = digits()
    train = np.random.default_rng(0).permutation(train_positions())
    sets = train[:forgotten], train[forgotten:], np.flatnonzero(raw.holdout)
    return Split(samples, *(torch.from_numpy(positions) for positions in sets))


def without_remain(whole):
    return replace(whole, remain=whole.remain[:0])


def attacked(whole):
    images = to_float(gather(whole.samples.images, whole.forget))
    return pgd_l2(original(), images, whole.samples.labels[whole.forget], PgdL2Params(steps=10))


@cache
def attacked_by_default():
    return attacked(split())


def run(name, whole, adversarial=None, progress=None, **params):
    """Method `name` on a fresh copy of the original, found by its place, as a worker finds it."""
    parsed = catalog.parse("methods", name, params)
    return places.method(name)(original(), whole, parsed, adversarial, context(progress=progress))


def log_odds_of(model, whole, positions):
    """(n,) log-odds of the true class."""
    logits = evaluation.logits(model, whole.samples.images, positions).numpy()
    return log_odds(logits, whole.samples.labels[positions].numpy())


def confidence(model, whole, positions):
    """Mean log-odds of the true class."""
    return log_odds_of(model, whole, positions).mean()


def loss(model, whole, positions):
    answers = evaluation.logits(model, whole.samples.images, positions)
    return nn.functional.cross_entropy(answers, whole.samples.labels[positions]).item()


def accuracy(model, whole, positions):
    answers = evaluation.logits(model, whole.samples.images, positions)
    return evaluation.accuracy(answers, whole.samples.labels[positions])
