import math

import numpy as np
import pytest
from sklearn.svm import SVC

from app.catalog import MisParams
from engine.audits import mis

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(0, 3, (40, 5))
LABELS = RANDOM.integers(0, 5, 40)


def slow_modified_entropy(row, label):
    p = np.exp(row) / np.exp(row).sum()
    return -(1 - p[label]) * math.log(p[label]) - sum(p[j] * math.log(1 - p[j]) for j in range(len(p)) if j != label)


def test_the_modified_entropy_is_its_formula():
    expected = [slow_modified_entropy(row, label) for row, label in zip(LOGITS, LABELS, strict=True)]
    assert mis.modified_entropy(LOGITS, LABELS) == pytest.approx(expected)


def test_the_modified_entropy_is_exact_where_the_probability_rounds_to_one():
    logits, labels = np.array([[60.0, 0.0, 0.0], [60.0, 0.0, 0.0]]), np.array([0, 1])
    right, wrong = mis.modified_entropy(logits, labels)
    assert 0 <= right < 1e-20
    assert wrong == pytest.approx(60 + 60 - math.log(2), rel=1e-6)


def test_the_confidence_is_the_softmax_of_the_true_class():
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    assert mis.confidence(LOGITS, LABELS) == pytest.approx(p[np.arange(40), LABELS])
    assert mis.signals(LOGITS, LABELS, MisParams(signal="modified_entropy")) == pytest.approx(
        -mis.modified_entropy(LOGITS, LABELS)
    )


def test_mis_is_the_share_that_the_machine_takes_for_unseen():
    values = np.concatenate([RANDOM.beta(8, 1, 300), RANDOM.beta(2, 2, 200), RANDOM.beta(3, 2, 100)])
    remain, holdout, forget = np.arange(300), np.arange(300, 500), np.arange(500, 600)
    got = mis.mis(values, forget, remain, holdout, MisParams(most=150))
    random = np.random.default_rng(0)
    seen, unseen = random.choice(remain, 150, replace=False), random.choice(holdout, 150, replace=False)
    machine = SVC(C=3, kernel="rbf", gamma="auto")
    machine.fit(np.r_[values[seen], values[unseen]].reshape(-1, 1), np.r_[np.ones(150), np.zeros(150)])
    assert got == 1 - machine.predict(values[forget].reshape(-1, 1)).mean()
    assert 0 < got < 1
    assert mis.mis(values, holdout, remain, holdout, MisParams()) > mis.mis(
        values, remain, remain, holdout, MisParams()
    )


@pytest.mark.parametrize("missing", ["forget", "remain", "holdout"])
def test_without_one_of_the_sets_there_is_no_mis(missing):
    sets = {"forget": np.arange(3), "remain": np.arange(3, 6), "holdout": np.arange(6, 9)}
    sets[missing] = np.arange(0)
    assert mis.mis(RANDOM.random(9), sets["forget"], sets["remain"], sets["holdout"], MisParams()) is None
