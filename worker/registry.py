"""Every name of the catalog, bound to the function that does it.

Adding a method, an attack, an architecture ... is one file, its entry in `app.catalog` and its line here.
Parameters are typed in each function; here they are `Any`, since `app.catalog.parse` has checked them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from app.reports import Balance, Judgement, Measurement
from worker import training
from worker.architectures import resnet18, small_cnn
from worker.attacks import AttackResult
from worker.attacks.pgd_l2 import pgd_l2
from worker.audits import measure
from worker.data import parquet, sources
from worker.data.sources import RawData
from worker.methods.amun import amun
from worker.methods.retrain import retrain

METHODS: Mapping[str, Callable[..., nn.Module]] = {
    "amun": amun,
    "retrain": retrain,
}

ATTACKS: Mapping[str, Callable[[nn.Module, Tensor, Tensor, Any], AttackResult]] = {
    "pgd_l2": pgd_l2,
}

AUDITS: Mapping[str, Callable[..., tuple[Measurement, Measurement | None, Balance | None, Judgement]]] = {
    "rmia": measure.audit,
}

ARCHITECTURES: Mapping[str, Callable[[Any, int, int], nn.Module]] = {
    "small_cnn": small_cnn.build,
    "resnet18": resnet18.build,
}

RECIPES: Mapping[str, Callable[..., nn.Module]] = {
    "sgd": training.sgd,
}

SOURCES: Mapping[str, Callable[[Any, Path | None, Path | None], RawData]] = {
    "digits": sources.digits,
    "torchvision": sources.torchvision_set,
    "upload": parquet.upload,
}
