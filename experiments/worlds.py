"""Simulated models whose memory is planted: what an audit says of them can be compared with the truth.

A world has samples with an ease and a gap. A model gives a sample the log-odds

    ease + gap * (was it trained on?) + noise

and logits that have these log-odds. Forget sets, controls and references are as in a service, and no network is
trained: an audit takes milliseconds, so that error rates can be counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine import references
from engine.audits import Floats, Positions
from engine.references import ReferenceSignals


@dataclass(frozen=True)
class World:
    """ease, gap: (N,). labels: (N,). train: the first `train` samples; the rest were never trained on.

    people: (N,), whose each sample is, none on both sides. alike: the correlation within a person, of ease and noise.
    """

    ease: Floats
    gap: Floats
    labels: NDArray[np.int64]
    train: int
    noise: float = 1.0
    classes: int = 2
    people: NDArray[np.int64] | None = None
    alike: float = 0.0

    @classmethod
    def draw(
        cls, random: np.random.Generator, train: int, holdout: int, *, gap: float, noise: float = 1.0, classes: int = 2
    ) -> World:
        size = train + holdout
        labels = random.integers(0, classes, size)
        return cls(random.normal(1, 1, size), np.full(size, gap), labels, train, noise, classes)

    @classmethod
    def of_people(
        cls, random: np.random.Generator, sizes: NDArray[np.int64], trained: int, *, gap: float, alike: float
    ) -> World:
        """sizes: samples of each person; the first `trained` people were trained on."""
        people = np.repeat(np.arange(len(sizes)), sizes)
        world = cls.draw(random, int(sizes[:trained].sum()), int(sizes[trained:].sum()), gap=gap)
        ease = 1 + _alike(random, people, alike)
        return cls(ease, world.gap, world.labels, world.train, people=people, alike=alike)

    @property
    def size(self) -> int:
        return len(self.ease)

    @property
    def holdout(self) -> Positions:
        return np.arange(self.train, self.size)

    def without(self, forget: Positions) -> NDArray[np.bool_]:
        """(N,) bool: what an exact retrain is trained on."""
        inside = np.arange(self.size) < self.train
        inside[forget] = False
        return inside

    def log_odds(self, random: np.random.Generator, knows: NDArray[np.bool_] | Floats) -> Floats:
        """(N,) of one model. knows: (N,), the share of the gap that it has of each sample."""
        noise = random.normal(size=self.size) if self.people is None else _alike(random, self.people, self.alike)
        return self.ease + self.gap * knows + self.noise * noise

    def logits(self, log_odds: Floats) -> Floats:
        """(N, classes) with these log-odds (N,) of the true class; the others are equal."""
        values = np.zeros((self.size, self.classes))
        values[np.arange(self.size), self.labels] = log_odds + np.log(self.classes - 1)
        return values

    def references(self, random: np.random.Generator, count: int) -> ReferenceSignals:
        return self.pool(random, references.membership(count, self.size, int(random.integers(2**31))))

    def pool(self, random: np.random.Generator, design: NDArray[np.bool_]) -> ReferenceSignals:
        """References that saw what `design` (K, N) says."""
        odds = np.stack([self.log_odds(random, row) for row in design])
        logits = np.stack([self.logits(each) for each in odds])
        return ReferenceSignals(logits.astype(np.float16), odds.astype(np.float32), design)


def _alike(random: np.random.Generator, people: NDArray[np.int64], alike: float) -> Floats:
    """(N,) of variance 1, correlated by `alike` within people."""
    common = random.normal(size=int(people.max()) + 1)[people]
    found: Floats = np.sqrt(alike) * common + np.sqrt(1 - alike) * random.normal(size=len(people))
    return found
