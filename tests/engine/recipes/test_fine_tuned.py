"""Fine-tuning: the head of any network, rates by depth, what stays frozen, and the probe on features computed once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from app import catalog
from app.catalog import SmallCnnParams, TorchvisionParams
from engine import evaluation, places, seeding
from engine.architectures import heads, small_cnn, torchvision_model
from engine.data.samples import to_float
from engine.errors import MethodError
from engine.recipes import Recipe
from engine.recipes.fine_tuned import features
from engine.training import NullProgress, warm_cosine
from tests.engine.cases import digits, small_network, train_positions


def recipe(name, **changed):
    return Recipe(places.recipe(name), catalog.parse("recipes", name, {"epochs": 2, "batch_size": 32, **changed}))


def start():
    model = seeding.seeded_model(small_network, 3)
    return heads.mark(model, heads.of(model))


def trained(chosen, model=None):
    positions = torch.from_numpy(train_positions()[:120])
    return chosen.train(model or start(), digits()[1], positions, seeding.generator(4), NullProgress())


def moved(model):
    before = dict(start().named_parameters())
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("resnet18", {"fc.weight", "fc.bias"}),
        ("vit_b_32", {"heads.head.weight", "heads.head.bias"}),
        ("squeezenet1_1", {"classifier.1.weight", "classifier.1.bias"}),
        ("mobilenet_v3_small", {"classifier.3.weight", "classifier.3.bias"}),
    ],
)
def test_the_head_is_what_depends_on_the_number_of_classes(name, head):
    def build(classes):
        return torchvision_model.build(TorchvisionParams(name=name), 3, classes, (64, 64))

    assert set(heads.names(build, 7, ("test", name))) == head


def test_a_network_that_is_not_marked_ends_in_its_last_linear_layer():
    model = small_cnn.build(SmallCnnParams(width=4), 1, 10)
    assert heads.of(model) == ("13.weight", "13.bias")
    with pytest.raises(MethodError, match="no linear layer"):
        heads.of(nn.Sequential(nn.Conv2d(1, 2, 1)))


def test_depths_are_counted_from_the_head_in_blocks():
    model = torchvision_model.build(TorchvisionParams(name="resnet18"), 3, 5, (32, 32))
    found = heads.depths(model)
    assert found["fc.weight"] == found["fc.bias"] == 0
    assert found["layer4.1.conv1.weight"] == 1
    assert found["layer4.0.bn2.bias"] == 2
    assert found["layer1.0.conv1.weight"] == 8
    assert found["conv1.weight"] > found["layer1.0.conv1.weight"]


def test_a_frozen_backbone_moves_the_head_alone_and_no_statistics():
    before = start().state_dict()
    model = trained(recipe("fine_tuned", warmup_epochs=0.5, frozen_backbone=True))
    assert moved(model) == {"13.weight", "13.bias"}
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if "running" in name or "num_batches" in name)


def test_with_layer_decay_the_first_layers_move_less():
    """By one step, whose length AdamW makes the rate."""
    full, decayed = (
        trained(recipe("fine_tuned", epochs=1, batch_size=200, warmup_epochs=0, weight_decay=0, layer_decay=decay))
        for decay in (1.0, 0.5)
    )
    before = start()
    for name, depth in heads.depths(before).items():
        own = before.get_parameter(name).detach()
        steps = [(model.get_parameter(name).detach() - own).abs().max() for model in (full, decayed)]
        if steps[0] > 0:
            assert float(steps[1] / steps[0]) == pytest.approx(0.5**depth, rel=1e-3)


def test_it_learns_and_smoothed_labels_keep_logits_small():
    plain = trained(recipe("fine_tuned", epochs=20, learning_rate=0.01, augment="none"))
    smooth = trained(recipe("fine_tuned", epochs=20, learning_rate=0.01, label_smoothing=0.3))
    images = digits()[1].images[torch.from_numpy(train_positions()[:120])]
    confident, careful = (evaluation.logits(model, images).softmax(1).amax(1).mean() for model in (plain, smooth))
    assert float(confident) > float(careful) + 0.1
    labels = digits()[1].labels[torch.from_numpy(train_positions()[:120])]
    assert evaluation.accuracy(evaluation.logits(plain, images), labels) > 0.9


def test_warm_up_and_cosine():
    factor = warm_cosine(10, 2.0)
    assert [factor(0), factor(1), factor(2), factor(6), factor(10)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert warm_cosine(4, 0.0)(0) == 1
    with pytest.raises(ValueError, match="less than epochs"):
        recipe("fine_tuned", epochs=1, warmup_epochs=1.0)


# -- the linear probe ------------------------------------------------------------------------------


def test_a_probe_moves_the_head_alone_and_sees_each_image_once(monkeypatch):
    model, seen = start(), []
    model.register_forward_hook(lambda _m, inputs, _o: seen.append(len(inputs[0])))
    trained(recipe("linear_probe", epochs=200, learning_rate=0.1), model)
    assert sum(seen) == 120
    assert moved(model) == {"13.weight", "13.bias"}
    positions = torch.from_numpy(train_positions()[:120])
    logits = evaluation.logits(model, digits()[1].images, positions)
    assert evaluation.accuracy(logits, digits()[1].labels[positions]) > 0.6, "of random features"


def test_features_are_what_the_head_is_given():
    model, samples = start().eval(), digits()[1]
    positions = torch.arange(40)
    _, head = heads.layer(model)
    found = features(model, head, samples, positions)
    with torch.no_grad():
        assert torch.allclose(head(found), model(to_float(samples.images[:40])), atol=1e-5)
    assert not head._forward_pre_hooks


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, images):
        return 2 * self.head(images.flatten(1))


def test_a_network_that_does_more_after_its_head_is_refused():
    with pytest.raises(MethodError, match="more after its head"):
        trained(recipe("linear_probe"), Twice())
    conv = torchvision_model.build(TorchvisionParams(name="squeezenet1_1"), 3, 10, (64, 64))
    with pytest.raises(MethodError, match="not one linear layer"):
        heads.layer(heads.mark(conv, ("classifier.1.weight", "classifier.1.bias")))
