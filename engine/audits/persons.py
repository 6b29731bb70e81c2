"""Sets that were requested by person: what is exchangeable are people, not samples.

Under exact retraining a forgotten person is like a person who was never trained on: of neither the model has seen a
sample. The samples of one person are alike, so the variance is that of clustered ROC data (Obuchowski, Biometrics 1997:
DeLong's structural components, summed within clusters), and tests of balance permute people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from engine.audits import Floats, Positions, roc
from engine.audits.groups import Groups
from engine.audits.rule import Z95

FEWEST = 5.0
"""Effective people on either side: below it the variance between people is not known."""
PERMUTATIONS = 999


@dataclass(frozen=True)
class People:
    """number: (N,) of the person whom each sample belongs to; a sample of nobody known is one of its own."""

    number: NDArray[np.int64]

    @classmethod
    def of(cls, subject: NDArray[np.int64]) -> People:
        """subject: (N,), -1 where none is known."""
        alone = subject < 0
        number = subject.copy()
        number[alone] = subject.max(initial=-1) + 1 + np.arange(alone.sum())
        return cls(np.unique(number, return_inverse=True)[1].astype(np.int64))

    def effective(self, positions: Positions) -> float:
        """(sum of sizes)^2 / sum of squares: the number of people where all have equally many samples, else fewer. One
        who has nearly all of them makes it one."""
        sizes = np.unique(self.number[positions], return_counts=True)[1].astype(np.float64)
        return float(sizes.sum() ** 2 / (sizes**2).sum()) if len(sizes) else 0.0

    def count(self, positions: Positions) -> int:
        return len(np.unique(self.number[positions]))

    def shared(self, one: Positions, other: Positions) -> int:
        """How many people have samples in both."""
        return len(np.intersect1d(self.number[one], self.number[other]))

    def never_trained(self, subject: NDArray[np.int64], trained: Positions, holdout: Positions) -> Positions:
        """Samples of `holdout` of known people, of whom nothing was trained on. A person of whom something was is no
        control: the model has seen their other samples. subject: as in `of`."""
        known = holdout[subject[holdout] >= 0]
        return known[~np.isin(self.number[known], self.number[trained])]

    def variance(self, parts: Sequence[tuple[Positions, Floats]]) -> float:
        """The variance of a sum over samples of terms that depend on each other within people: squares of the sums of
        people, on either side as many times too small as the people there are few. Nobody is on both sides.

        parts: positions with their terms, each centred; of the forgotten and of the controls by turns.
        """
        return sum(self._one_side(side) for side in (parts[0::2], parts[1::2]) if side)

    def _one_side(self, parts: Sequence[tuple[Positions, Floats]]) -> float:
        totals = np.zeros(int(self.number.max()) + 1)
        for positions, terms in parts:
            np.add.at(totals, self.number[positions], terms)
        people = self.effective(np.concatenate([positions for positions, _ in parts]))
        return float((totals**2).sum() * people / max(1.0, people - 1))

    def student(self, groups: Groups) -> float:
        """The factor by which few people widen the interval: Student's, for the effective people of one side."""
        least = min(self.effective(groups.forget), self.effective(groups.test))
        return float(special.stdtrit(max(1.0, least - 1), 0.975)) / Z95

    # -- balance -----------------------------------------------------------------------------------

    def class_p(self, labels: NDArray[np.int64], groups: Groups) -> float:
        """That classes of forgotten and control people come from one distribution: chi-square, people permuted."""
        classes = np.unique(labels, return_inverse=True)[1]
        return self._permuted(np.eye(int(classes.max()) + 1)[classes], groups, _chi_square)

    def difficulty_p(self, odds: Floats, groups: Groups) -> float:
        """That both are equally difficult: difference of mean ranks, people permuted."""
        both = np.concatenate([groups.forget, groups.test])
        ranks = np.zeros(len(odds))
        ranks[both] = roc.midranks(odds[both])
        return self._permuted(np.stack([ranks, np.ones(len(odds))], axis=1), groups, _difference)

    def _permuted(self, values: Floats, groups: Groups, statistic: object) -> float:
        """values: (N, d), summed within people. The p-value of statistic(sums of the forgotten, sums of all)."""
        both = np.concatenate([groups.forget, groups.test])
        people, inverse = np.unique(self.number[both], return_inverse=True)
        sums = np.zeros((len(people), values.shape[1]))
        np.add.at(sums, inverse, values[both])
        forgotten = np.zeros(len(people))
        forgotten[inverse[: len(groups.forget)]] = 1
        random = np.random.default_rng(0)
        drawn = np.stack([forgotten, *(random.permutation(forgotten) for _ in range(PERMUTATIONS))])
        found = statistic(drawn @ sums, sums.sum(axis=0))  # type: ignore[operator]
        return float((found[1:] >= found[0] * (1 - 1e-9)).sum() + 1) / (PERMUTATIONS + 1)


def _chi_square(forgotten: Floats, everyone: Floats) -> Floats:
    """forgotten: (M, classes) counts. Returns (M,)."""
    share = forgotten.sum(axis=1, keepdims=True) / everyone.sum()
    expected = np.maximum(share * everyone, 1e-12)
    found: Floats = ((forgotten - expected) ** 2 / expected / np.maximum(1 - share, 1e-12)).sum(axis=1)
    return found


def _difference(forgotten: Floats, everyone: Floats) -> Floats:
    """forgotten: (M, 2), sum of ranks and number of samples. Returns (M,)."""
    own = forgotten[:, 0] / np.maximum(forgotten[:, 1], 1)
    rest = everyone - forgotten
    found: Floats = np.abs(own - rest[:, 0] / np.maximum(rest[:, 1], 1))
    return found
