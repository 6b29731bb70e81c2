"""Every name of the catalog, bound to the function that does it.

Adding a method, an attack, an architecture ... is one file, its entry in `app.catalog` and its line here.
Parameters are typed in each function; here they are `Any`, since `app.catalog.parse` has checked them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from app.formats.audit_report import Balance, Judgement, Measurement
from engine.architectures import resnet18, small_cnn, torchvision_model, vgg19_bn, vit
from engine.attacks import AttackResult
from engine.attacks.fast_min_norm import fast_min_norm
from engine.attacks.ffgsm import ffgsm
from engine.attacks.pgd_l2 import pgd_l2
from engine.attacks.transfer import transfer
from engine.audits import measure, probes
from engine.audits.probes import Found, ProbeCase
from engine.data import sources, upload
from engine.data.samples import RawData
from engine.methods.amun import amun, amun_salun
from engine.methods.boundary_shrink import boundary_shrink
from engine.methods.certified_newton import certified_newton
from engine.methods.fine_tune import fine_tune, l1_sparse
from engine.methods.gradient_ascent import gradient_ascent
from engine.methods.mixunlearn import mixunlearn
from engine.methods.random_label import random_label, salun
from engine.methods.retrain import retrain
from engine.recipes import sgd, spectral_clipping, trades

METHODS: Mapping[str, Callable[..., nn.Module]] = {
    "amun": amun,
    "amun_salun": amun_salun,
    "boundary_shrink": boundary_shrink,
    "certified_newton": certified_newton,
    "fine_tune": fine_tune,
    "gradient_ascent": gradient_ascent,
    "l1_sparse": l1_sparse,
    "mixunlearn": mixunlearn,
    "random_label": random_label,
    "salun": salun,
    "retrain": retrain,
}

ATTACKS: Mapping[str, Callable[..., AttackResult]] = {
    "pgd_l2": pgd_l2,
    "fast_min_norm": fast_min_norm,
    "ffgsm": ffgsm,
    "transfer": transfer,
}

AUDITS: Mapping[str, Callable[..., tuple[Measurement, Measurement | None, Balance | None, Judgement]]] = {
    "rmia": measure.audit,
    "lira": measure.audit,
    "mis": measure.audit,
}

PROBES: Mapping[str, Callable[[ProbeCase, Any], Found]] = {
    "relearn": probes.relearning,
    "robust_accuracy": probes.robust_accuracy,
    "known_method": probes.known_method,
}

ARCHITECTURES: Mapping[str, Callable[..., nn.Module]] = {
    "small_cnn": small_cnn.build,
    "resnet18": resnet18.build,
    "vgg19_bn": vgg19_bn.build,
    "vit": vit.build,
    "torchvision": torchvision_model.build,
}

RECIPES: Mapping[str, Callable[..., nn.Module]] = {
    "sgd": sgd.sgd,
    "fast": sgd.fast,
    "trades": trades.trades,
    "spectral_clipping": spectral_clipping.spectral_clipping,
}

SOURCES: Mapping[str, Callable[[Any, Path | None, Path | None], RawData]] = {
    "digits": sources.digits,
    "torchvision": sources.torchvision_set,
    "upload": upload.upload,
    "external": sources.external,
}
