"""How each kind of cell is computed; `Lab` gets the table."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app import catalog
from engine import evaluation, places, references, seeding
from engine.attacks import AttackResult
from engine.attacks.steps import counted
from engine.audits import Positions, measure
from engine.audits.probes import ProbeCase, deal
from engine.audits.rmia import log_odds
from engine.data.samples import Split, gather, to_float
from engine.errors import DivergedError, MethodError
from engine.methods import MethodContext
from experiments import measuring
from experiments.cells import (
    Adversarial,
    Judged,
    Measured,
    Probed,
    Reference,
    Shadow,
    Substitute,
    Taught,
    Theory,
    Trained,
    Unlearned,
)
from experiments.lab import Compute, Lab
from experiments.store import Cell, CellProgress, NotMeasured, Result
from experiments.theory import both_sides


def reference(cell: Reference, lab: Lab, progress: CellProgress) -> Result:
    loaded = lab.loaded(cell.world)
    design = references.membership(cell.models, loaded.samples.n, cell.seed)
    signal = references.train_reference(
        cell.index, design, loaded.samples, loaded.recipe, loaded.build, cell.seed, progress
    )
    tensors = {name: torch.from_numpy(array) for name, array in vars(signal).items()}
    right = signal.logits.argmax(1) == loaded.raw.labels
    seen = signal.membership
    figures = {"accuracy_in": float(right[seen].mean()), "accuracy_out": float(right[~seen].mean())}
    return Result(figures, tensors)


def trained(cell: Trained, lab: Lab, progress: CellProgress) -> Result:
    loaded = lab.loaded(cell.world)
    gone = cell.without.positions(loaded.raw) if cell.without else np.empty(0, np.int64)
    rows = np.setdiff1d(np.flatnonzero(~loaded.raw.holdout), gone)
    seed = seeding.derive(cell.seed, "original" if cell.without is None else "retrain", cell.run)
    model = seeding.seeded_model(loaded.build, seed, lab.device)
    begun, cpu = time.monotonic(), time.process_time()
    positions, generator = torch.from_numpy(rows).to(lab.device), seeding.generator(seed, lab.device)
    loaded.recipe.train(model, loaded.samples, positions, generator, progress)
    seconds, cpu = lab.finished(begun, progress), time.process_time() - cpu
    tensors = {"logits": lab.logits(model, loaded.samples)}
    if cell.without is None:
        tensors |= weights_of(model)
    return Result({"samples": len(rows)}, tensors, seconds, cpu)


def adversarial(cell: Adversarial, lab: Lab, _progress: CellProgress) -> Result:
    loaded, params = lab.loaded(cell.model.world), cell.attack.parsed()
    model = lab.model(cell.model)
    rows = torch.from_numpy(cell.forget.positions(loaded.raw)).to(lab.device)
    images, labels = to_float(gather(loaded.samples.images, rows)), loaded.samples.labels[rows]
    given = [lab.adversarial(cell.donor)] if cell.donor else []
    begun, cpu = time.monotonic(), time.process_time()
    with counted(model) as cost:
        result = places.attack(cell.attack.name)(model, images, labels, params, *given)
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


def unlearned(cell: Unlearned, lab: Lab, progress: CellProgress) -> Result:
    loaded, params = lab.loaded(cell.world), cell.method.parsed()
    split = lab.split(loaded, cell.forget, cell.gone, cell.remain)
    seed = seeding.derive(cell.run, "unlearn", cell.method.name)
    model, generator = lab.model(cell.start), seeding.generator(seed, lab.device)
    adversarial = lab.adversarial(cell.adversarial) if cell.adversarial else None
    if adversarial is not None and cell.substitute:
        adversarial = substituted(cell.substitute, adversarial, split, generator)
    fresh_seed = seeding.derive(cell.run, "fresh", cell.method.name)
    context = MethodContext(
        generator, progress, loaded.recipe, lambda: seeding.seeded_model(loaded.build, fresh_seed, lab.device)
    )
    epochs: list[Tensor] = []
    if cell.by_epoch:
        progress.after_epoch = lambda: epochs.append(lab.logits(model, loaded.samples))  # `model` changes in place
    begun, cpu = time.monotonic(), time.process_time()
    try:
        model = places.method(cell.method.name)(model, split, params, adversarial, context)
    except (DivergedError, MethodError) as error:
        return Result({"failed": str(error)})
    seconds, cpu = lab.finished(begun, progress), time.process_time() - cpu
    tensors = {"logits": lab.logits(model, loaded.samples)}
    if cell.by_epoch:
        tensors["epochs"] = torch.stack(epochs)
    if cell.keep:
        tensors |= weights_of(model)
    holdout = loaded.raw.holdout
    accuracies = [(each.numpy().argmax(1) == loaded.raw.labels)[holdout].mean() for each in epochs]
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


def measured(cell: Measured, lab: Lab, _progress: CellProgress) -> Result:
    held = lab.get(cell.subject, tensors=True)
    if "failed" in held.figures:
        return Result(held.figures)
    loaded = lab.loaded(cell.subject.world)
    logits = held.tensors["epochs"][cell.epoch - 1] if cell.epoch else held.tensors["logits"]
    if not logits.isfinite().all():
        return Result({"failed": "its answers are not finite"})
    groups = lab.groups(loaded, cell.forget, cell.gone)
    pool = lab.pool(cell.subject.world, cell.models)
    return Result(measuring.measured(logits.float().numpy(), loaded.raw.labels, groups, pool, loaded.raw.holdout))


def judged(cell: Judged, lab: Lab, _progress: CellProgress) -> Result:
    loaded = lab.loaded(cell.subject.world)
    own, parent = (lab.get(each, tensors=True).tensors["logits"] for each in (cell.subject, cell.original))
    groups = lab.groups(loaded, (cell.forget,), ())
    pool = lab.pool(cell.subject.world, cell.models)
    found, _, _, ruling = measure.audit(
        own.float().numpy(),
        parent.float().numpy(),
        loaded.raw.labels,
        groups.forget,
        groups.retain,
        groups.test,
        pool.signals,
        catalog.RmiaParams(),
    )
    convergence = [point.model_dump() for point in found.convergence or []]
    return Result({**ruling.model_dump(), "convergence": convergence, "ft": found.ft_auc and found.ft_auc.value})


def theory(cell: Theory, _lab: Lab, _progress: CellProgress) -> Result:
    return Result(both_sides(cell.instances, cell.seed))


def taught(cell: Taught, lab: Lab, progress: CellProgress) -> Result:
    loaded = lab.loaded(cell.world)
    model = seeding.seeded_model(loaded.build, cell.seed, lab.device)
    rows = torch.from_numpy(np.union1d(*shadow_sets(cell, lab))).to(lab.device)
    order = seeding.generator(cell.seed, lab.device)
    loaded.recipe.train(model, loaded.samples, rows, order, progress)
    return Result({"samples": len(rows)}, weights_of(model))


def shadow(cell: Shadow, lab: Lab, progress: CellProgress) -> Result:
    loaded, model = lab.loaded(cell.taught.world), lab.model(cell.taught)
    retain, forget = (torch.from_numpy(each).to(lab.device) for each in shadow_sets(cell.taught, lab))
    adversarial = None
    if cell.attack:
        images, labels = to_float(gather(loaded.samples.images, forget)), loaded.samples.labels[forget]
        adversarial = places.attack(cell.attack.name)(model, images, labels, cell.attack.parsed())
    split = Split(loaded.samples, forget, retain, forget[:0])
    generator = seeding.generator(cell.taught.seed, lab.device)
    fresh = lambda: seeding.seeded_model(loaded.build, cell.taught.seed, lab.device)  # noqa: E731
    context = MethodContext(generator, progress, loaded.recipe, fresh)
    try:
        model = places.method(cell.method.name)(model, split, cell.method.parsed(), adversarial, context)
    except (DivergedError, MethodError) as error:
        raise NotMeasured(str(error)) from error
    odds = log_odds(evaluation.logits(model, loaded.samples.images).cpu().numpy(), loaded.raw.labels)
    return Result({}, {"log_odds": torch.from_numpy(odds)})


def probed(cell: Probed, lab: Lab, _progress: CellProgress) -> Result:
    loaded = lab.loaded(cell.original.world)
    groups = lab.groups(loaded, (cell.forget,), ())

    def imitated(number: int, _positions: Any) -> NDArray[np.float32]:
        odds: NDArray[np.float32] = lab.get(cell.shadows[number], tensors=True).tensors["log_odds"].numpy()
        return odds

    case = ProbeCase(
        candidate=lab.model(cell.subject),
        parent=lab.model(cell.original),
        samples=loaded.samples,
        forget=groups.forget,
        holdout=groups.test,
        shadow=imitated if cell.shadows else None,
    )
    (found,) = places.probe(cell.probe.name)(case, cell.probe.parsed())["candidate"].values()
    return Result(found.model_dump() if hasattr(found, "model_dump") else {"value": found})


def shadow_sets(cell: Taught, lab: Lab) -> tuple[Positions, Positions]:
    """What is retained, and what this shadow unlearns."""
    groups = lab.groups(lab.loaded(cell.world), (cell.forget,), ())
    dealt, _, design = deal(groups.forget, groups.test, cell.shadows)
    return groups.retain, np.sort(dealt[design[cell.number]])


COMPUTE: Mapping[type[Cell], Compute] = {
    Reference: reference,
    Trained: trained,
    Adversarial: adversarial,
    Unlearned: unlearned,
    Measured: measured,
    Judged: judged,
    Theory: theory,
    Taught: taught,
    Shadow: shadow,
    Probed: probed,
}
