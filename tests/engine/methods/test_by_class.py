"""Methods for a whole class, and for forget samples that are to look like unseen ones."""

import numpy as np
import pytest
import torch

from engine.data.samples import Split
from engine.errors import MethodError
from tests.engine.cases import KeptProgress, digits, original, same, train_positions
from tests.engine.methods.cases import accuracy, confidence, context, run, split


def whole_class(label=3):
    raw, samples = digits()
    train = np.asarray(train_positions())
    mine = raw.labels[train] == label
    sets = train[mine], train[~mine], np.flatnonzero(raw.holdout)
    return Split(samples, *(torch.from_numpy(positions) for positions in sets))


def test_neg_grad_plus_forgets_a_class_and_keeps_the_others():
    """AMUN keeps most of a class: its adversarial examples are a single wrong label away."""
    whole = whole_class()
    unseen = whole.holdout[whole.samples.labels[whole.holdout] == 3]
    others = whole.holdout[whole.samples.labels[whole.holdout] != 3]
    before = accuracy(original(), whole, others)
    model = run("neg_grad_plus", whole, epochs=6, batch_size=64)
    assert accuracy(model, whole, whole.forget) < 0.1
    assert accuracy(model, whole, unseen) < 0.1
    assert accuracy(model, whole, others) > before - 0.05
    assert accuracy(model, whole, whole.remain) > 0.95


def test_the_easy_part_comes_first_and_a_stopped_run_goes_on_in_the_part_where_it_was():
    whole = split()
    straight = run("neg_grad_plus", whole, epochs=4, parts=2, batch_size=64)
    for after in (1, 2, 3):
        progress = KeptProgress(stop_after=after)
        with pytest.raises(InterruptedError):
            run("neg_grad_plus", whole, progress=progress, epochs=4, parts=2, batch_size=64)
        assert int(progress.states[-1]["neg_grad:stage"]) == (after - 1) // 2
        progress.stop_after = None
        assert same(run("neg_grad_plus", whole, progress=progress, epochs=4, parts=2, batch_size=64), straight)


def test_reference_guided_brings_the_forget_set_to_where_unseen_samples_are():
    whole = split()
    model = original()
    away = confidence(model, whole, whole.forget) - confidence(model, whole, whole.holdout)
    assert away > 1
    model = run("reference_guided", whole, epochs=8, batch_size=64)
    left = confidence(model, whole, whole.forget) - confidence(model, whole, whole.holdout)
    assert abs(left) < away / 2
    assert accuracy(model, whole, whole.remain) > 0.95


def test_a_class_without_held_out_samples_is_refused_in_words():
    whole = whole_class()
    without = Split(whole.samples, whole.forget, whole.remain, whole.holdout[whole.samples.labels[whole.holdout] != 3])
    with pytest.raises(MethodError, match="1 classes of the forget set have no held-out sample"):
        run("reference_guided", without, epochs=1)
    assert context() is not None
