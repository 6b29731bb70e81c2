"""What an attack says of its progress, and that it may be stopped from there."""

from __future__ import annotations

import pytest
import torch

from app.catalog import FastMinNormParams, FfgsmParams, PgdL2Params
from engine import places, seeding
from engine.architectures import small_cnn
from engine.attacks.watching import watched

IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def network():
    return seeding.seeded_model(lambda: small_cnn.build(small_cnn.SmallCnnParams(width=4), 1, 3), 1)


@pytest.mark.parametrize(
    ("name", "params"),
    [("pgd_l2", PgdL2Params(steps=5)), ("fast_min_norm", FastMinNormParams()), ("ffgsm", FfgsmParams())],
)
def test_the_share_rises_within_the_first_pass_and_changes_no_result(name, params):
    model, labels = network(), torch.zeros(6, dtype=torch.int64)
    attack, shares = places.attack(name), []
    alone = attack(model, IMAGES, labels, params)
    with watched(model, len(IMAGES), params.passes, shares.append):
        seen = attack(model, IMAGES, labels, params)
    assert torch.equal(alone.images, seen.images)
    assert shares == sorted(shares)
    assert 0 < shares[0] < 1 / params.passes[0]
    assert shares[-1] <= 1
    usual, most = params.passes
    assert usual <= most
    assert not any(module._forward_hooks for module in model.modules())


def test_an_attack_of_unknown_length_still_shows_that_it_lives_and_can_be_stopped():
    model, labels = network(), torch.zeros(6, dtype=torch.int64)
    shares = []

    def stop(share):
        shares.append(share)
        if len(shares) == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), watched(model, len(IMAGES), None, stop):
        places.attack("pgd_l2")(model, IMAGES, labels, PgdL2Params())
    assert shares == [0.0] * 20
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
