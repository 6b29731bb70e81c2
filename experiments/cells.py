"""What the bench computes, piece by piece. A cell is a frozen value; equal cells are computed once."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app import catalog
from app.catalog import Params
from engine import evaluation, places, references, seeding
from engine.attacks import AttackResult
from engine.attacks.steps import counted
from engine.data.samples import RawData, Split, gather, to_float
from engine.errors import DivergedError, MethodError
from engine.methods import MethodContext
from experiments.data import Data
from experiments.store import CellProgress, NotMeasured, Result

if TYPE_CHECKING:
    from experiments.lab import Lab

Positions = NDArray[np.int64]


@dataclass(frozen=True)
class Named:
    """A name of the catalog's table `kind` with parameters, as JSON text; defaults are left out."""

    kind: str
    name: str
    params: str = "{}"

    def parsed(self) -> Params:
        """Raises `NotMeasured` where the catalog has no such name."""
        if self.name not in catalog.KINDS[self.kind]:
            raise NotMeasured(f"no {self.kind.removesuffix('s')} {self.name!r} in the catalog")
        return catalog.parse(self.kind, self.name, json.loads(self.params))

    def but(self, **params: Any) -> Named:
        """The same with these parameters in addition, or instead."""
        return named(self.kind, self.name, {**json.loads(self.params), **params})


def named(kind: str, name: str, params: Mapping[str, Any]) -> Named:
    return Named(kind, name, json.dumps(dict(params), sort_keys=True))


@dataclass(frozen=True)
class World:
    """Data, architecture and recipe: what models and their references have in common."""

    data: Data
    architecture: Named
    recipe: Named


@dataclass(frozen=True)
class Forget:
    """Which training samples go: a share of all, or of those of some classes, or one of `parts` equal requests
    of that share (with `whole` that one and those before it). Drawn from `seed`, so that sets of one seed nest."""

    share: float
    seed: int
    classes: tuple[int, ...] = ()
    part: int = 0
    parts: int = 1
    whole: bool = False

    def positions(self, raw: RawData) -> Positions:
        train = np.flatnonzero(~raw.holdout)
        if self.classes:
            train = train[np.isin(raw.labels[train], self.classes)]
        drawn = np.random.default_rng(self.seed).permutation(train)[: round(self.share * len(train))]
        pieces = np.array_split(drawn, self.parts)
        return np.sort(np.concatenate(pieces[: self.part + 1]) if self.whole else pieces[self.part])

    def until_here(self) -> tuple[Forget, ...]:
        """This request and those before it."""
        return tuple(replace(self, part=number) for number in range(self.part + 1))


@dataclass(frozen=True)
class Reference:
    """One of `models` reference models; each sample is in half of them."""

    world: World
    models: int
    index: int
    seed: int = 0

    def compute(self, lab: Lab, progress: CellProgress) -> Result:
        there = lab.there(self.world)
        design = references.membership(self.models, there.samples.n, self.seed)
        signal = references.train_reference(
            self.index, design, there.samples, there.recipe, there.build, self.seed, progress
        )
        tensors = {name: torch.from_numpy(array) for name, array in vars(signal).items()}
        right = signal.logits.argmax(1) == there.raw.labels
        seen = signal.membership
        figures = {"accuracy_in": float(right[seen].mean()), "accuracy_out": float(right[~seen].mean())}
        return Result(figures, tensors)


@dataclass(frozen=True)
class Trained:
    """A model trained on all training samples but those of `without`: an original, or an exact retrain."""

    world: World
    seed: int
    without: Forget | None = None
    run: int = 0

    def compute(self, lab: Lab, progress: CellProgress) -> Result:
        there = lab.there(self.world)
        gone = self.without.positions(there.raw) if self.without else np.empty(0, np.int64)
        rows = np.setdiff1d(np.flatnonzero(~there.raw.holdout), gone)
        seed = seeding.derive(self.seed, "original" if self.without is None else "retrain", self.run)
        model = seeding.seeded_model(there.build, seed, lab.device)
        begun, cpu = time.monotonic(), time.process_time()
        positions, generator = torch.from_numpy(rows).to(lab.device), seeding.generator(seed, lab.device)
        there.recipe.train(model, there.samples, positions, generator, progress)
        seconds, cpu = lab.finished(begun, progress), time.process_time() - cpu
        tensors = {"logits": lab.logits(model, there.samples)}
        if self.without is None:
            tensors |= weights_of(model)
        return Result({"samples": len(rows)}, tensors, seconds, cpu)


@dataclass(frozen=True)
class Adversarial:
    """An adversarial set for `forget`, searched on `model`, or taken over from `donor` by `transfer`."""

    model: Trained | Unlearned
    forget: Forget
    attack: Named
    donor: Adversarial | None = None

    def compute(self, lab: Lab, progress: CellProgress) -> Result:  # noqa: ARG002  it has no epochs
        there, params = lab.there(self.model.world), self.attack.parsed()
        model = lab.model(self.model)
        rows = torch.from_numpy(self.forget.positions(there.raw)).to(lab.device)
        images, labels = to_float(gather(there.samples.images, rows)), there.samples.labels[rows]
        given = [lab.adversarial(self.donor)] if self.donor else []
        begun, cpu = time.monotonic(), time.process_time()
        with counted(model) as cost:
            result = places.attack(self.attack.name)(model, images, labels, params, *given)
        seconds, cpu = lab.finished(begun), time.process_time() - cpu
        said = evaluation.logits(model, result.images).argmax(1)
        norms = result.norms[result.found].double()
        radii, counts = np.unique(result.radii.double().cpu().numpy(), return_counts=True)
        figures = {
            "samples": len(rows),
            "found": result.found.double().mean().item(),
            "mean_norm": norms.mean().item() if len(norms) else None,
            "median_norm": norms.median().item() if len(norms) else None,
            "forward_equivalents": cost.total / len(rows),
            "fooled": (said != labels).double().mean().item(),
            "agreed": (said == result.labels).double().mean().item(),
            "radii": {f"{radius:.3g}": int(count) for radius, count in zip(radii, counts, strict=True)},
            "norms": [round(norm, 4) for norm in norms.cpu().quantile(torch.linspace(0, 1, 101).double()).tolist()]
            if len(norms)
            else [],
        }
        return Result(figures, vars(result), seconds, cpu)


Substitute = Literal["", "Orig", "AdvL", "RL", "ARL", "ARS"]


@dataclass(frozen=True)
class Unlearned:
    """`method` on `start`, with the remain set or without it; `gone` were forgotten before.

    substitute: what stands in the place of the adversarial set (AMUN paper, 6.2.1). by_epoch: keep the logits after
    each epoch (then the seconds include that). keep: keep the weights.
    """

    start: Trained | Unlearned
    forget: Forget
    method: Named
    remain: bool
    adversarial: Adversarial | None = None
    gone: tuple[Forget, ...] = ()
    substitute: Substitute = ""
    run: int = 0
    by_epoch: bool = False
    keep: bool = False

    @property
    def world(self) -> World:
        return self.start.world

    def compute(self, lab: Lab, progress: CellProgress) -> Result:
        there, params = lab.there(self.world), self.method.parsed()
        split = lab.split(there, self.forget, self.gone, self.remain)
        seed = seeding.derive(self.run, "unlearn", self.method.name)
        model, generator = lab.model(self.start), seeding.generator(seed, lab.device)
        adversarial = lab.adversarial(self.adversarial) if self.adversarial else None
        if adversarial is not None and self.substitute:
            adversarial = substituted(self.substitute, adversarial, split, generator)
        fresh_seed = seeding.derive(self.run, "fresh", self.method.name)
        context = MethodContext(
            generator, progress, there.recipe, lambda: seeding.seeded_model(there.build, fresh_seed, lab.device)
        )
        epochs: list[Tensor] = []
        if self.by_epoch:
            progress.after_epoch = lambda: epochs.append(lab.logits(model, there.samples))  # `model` changes in place
        begun, cpu = time.monotonic(), time.process_time()
        try:
            model = places.method(self.method.name)(model, split, params, adversarial, context)
        except (DivergedError, MethodError) as error:
            return Result({"failed": str(error)})
        seconds, cpu = lab.finished(begun, progress), time.process_time() - cpu
        tensors = {"logits": lab.logits(model, there.samples)}
        if self.by_epoch:
            tensors["epochs"] = torch.stack(epochs)
        if self.keep:
            tensors |= weights_of(model)
        holdout = there.raw.holdout
        accuracies = [(each.numpy().argmax(1) == there.raw.labels)[holdout].mean() for each in epochs]
        return Result({"ta_by_epoch": [round(100 * float(each), 3) for each in accuracies]}, tensors, seconds, cpu)


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
    return {f"weights.{name}": tensor for name, tensor in model.state_dict().items()}


def substituted(name: Substitute, result: AttackResult, split: Split, generator: torch.Generator) -> AttackResult:
    """What the AMUN paper puts in the place of D_A to see what matters (6.2.1).

    Orig: the clean samples again. AdvL: clean samples, adversarial labels. RL: clean samples, ARL: adversarial
    ones, with a random label that is neither true nor adversarial, drawn once (their code draws it at each
    visit). ARS: points as far away in a random direction, clipped to [0, 1], with the adversarial labels.
    """
    clean, true = to_float(gather(split.samples.images, split.forget)), split.samples.labels[split.forget]
    if name == "Orig":
        return replace(result, images=clean, labels=true, found=torch.ones_like(result.found))
    if name == "AdvL":
        return replace(result, images=clean)
    if name == "ARS":
        direction = torch.randn(clean.shape, generator=generator, device=clean.device)
        unit = direction / torch.linalg.vector_norm(direction, dim=(1, 2, 3), keepdim=True)
        return replace(result, images=(clean + result.norms[:, None, None, None] * unit).clamp(0, 1))
    classes = split.samples.num_classes
    odds = torch.rand((len(true), classes), generator=generator, device=true.device)
    odds.scatter_(1, true[:, None], -1).scatter_(1, result.labels[:, None], -1)
    return replace(result, images=clean if name == "RL" else result.images, labels=odds.argmax(1))


@dataclass(frozen=True)
class Measured:
    """What a model shows of `forget`, of all forgotten so far where `gone` says more, by `models` references.

    epoch: of a subject with logits by epoch, from 1; 0: the end.
    """

    subject: Trained | Unlearned
    forget: tuple[Forget, ...]
    models: int
    gone: tuple[Forget, ...] = ()
    epoch: int = 0

    def compute(self, lab: Lab, progress: CellProgress) -> Result:  # noqa: ARG002
        from experiments.measuring import measured

        held = lab.get(self.subject, tensors=True)
        if "failed" in held.figures:
            return Result(held.figures)
        there = lab.there(self.subject.world)
        logits = held.tensors["epochs"][self.epoch - 1] if self.epoch else held.tensors["logits"]
        if not logits.isfinite().all():
            return Result({"failed": "its answers are not finite"})
        groups = lab.groups(there, self.forget, self.gone)
        pool = lab.pool(self.subject.world, self.models)
        return Result(measured(logits.float().numpy(), there.raw.labels, groups, pool, there.raw.holdout))


@dataclass(frozen=True)
class Judged:
    """The service's own audit of `subject`, with `original` as its parent: the verdict, and what led to it."""

    subject: Trained | Unlearned
    original: Trained
    forget: Forget
    models: int

    def compute(self, lab: Lab, progress: CellProgress) -> Result:  # noqa: ARG002
        from engine.audits.measure import audit

        there = lab.there(self.subject.world)
        own, parent = (lab.get(each, tensors=True).tensors["logits"] for each in (self.subject, self.original))
        groups = lab.groups(there, (self.forget,), ())
        pool = lab.pool(self.subject.world, self.models)
        found, _, _, ruling = audit(
            own.float().numpy(),
            parent.float().numpy(),
            there.raw.labels,
            groups.forget,
            groups.retain,
            groups.test,
            pool.signals,
            catalog.RmiaParams(),
        )
        convergence = [point.model_dump() for point in found.convergence or []]
        return Result({**ruling.model_dump(), "convergence": convergence, "ft": found.ft_auc and found.ft_auc.value})


@dataclass(frozen=True)
class Theory:
    """Theorem 4.1 on a convex model that interpolates; see `experiments.theory`."""

    instances: int
    seed: int = 0

    def compute(self, lab: Lab, progress: CellProgress) -> Result:  # noqa: ARG002
        from experiments.theory import both_sides

        return Result(both_sides(self.instances, self.seed))
