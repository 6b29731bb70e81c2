"""How large a bench is: worlds, numbers of models, sets, rates and references, by name of the scale."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from experiments.cells import Configuration, World, configuration
from experiments.data import Data
from experiments.protocol import Setting, rows


@dataclass(frozen=True)
class Scale:
    """settings: the tables', the first of which the other studies use. shares: of each, in order of value.
    sequences: (requests, share of all) each. curves: epochs, rate and decay of the fine-tuning-set curves, as JSON.
    strengths: attacks compared for their strength. robust: label, recipe and number of references of each.
    larger: settings of larger data. by_classes: runs of each row of MixUnlearn's protocol, which wants the
    ten classes of the first setting. judged: seeds of the exactness study. weak: the weak
    attack, with steps that suit the images. probed: forget sets of the probes; shadows: of the attack that knows the
    method. priced: a forecast of what is missing is said first. gate: epochs of which one was chosen."""

    name: str
    settings: tuple[Setting, ...]
    sequences: tuple[tuple[int, float], ...]
    sequence_runs: int
    curves: str
    curve_runs: int
    strengths: tuple[tuple[str, Configuration], ...]
    weak: Configuration
    robust: tuple[tuple[str, Configuration, int], ...]
    larger: tuple[Setting, ...]
    by_classes: int
    judged: tuple[int, ...]
    instances: int
    probed: int
    shadows: int
    threads: int | None = None
    priced: bool = False
    gate: tuple[int, ...] = ()

    @property
    def main(self) -> Setting:
        return self.settings[0]


def pgd(**params: object) -> Configuration:
    return configuration("attacks", "pgd_l2", params)


FAST = configuration("attacks", "fast_min_norm", {})
FFGSM = configuration("attacks", "ffgsm", {})
LONG_FFGSM = FFGSM.but(step=0.02, noise=0.03)  # of 64 pixels: as far as 2.5, where the default's 0.5 finds a third
TRANSFER = configuration("attacks", "transfer", {})
STRENGTHS = (
    ("PGD-50, 0.04", pgd()),
    ("PGD-20", pgd(steps=20)),
    ("PGD-10", pgd(steps=10)),
    ("first radius 0.01", pgd(epsilon=0.01)),
    ("first radius 0.16", pgd(epsilon=0.16)),
    ("steps of half the radius", pgd(step_fraction=0.5)),
    ("fast_min_norm", FAST),
)
# How the AMUN paper trains its models (appendix A); methods augment what the recipe augments, D_A never.
PAPER = {"epochs": 200, "batch_size": 128, "schedule": "step", "step_every": 40, "augment": "crop_flip"}
TRADES = {"epochs": 16, "step_every": 15}  # its 76 epochs and the step at 75, in a fifth
NEWTON = {"lissa_steps": 200, "lissa_chains": 2, "lissa_batch_size": 32, "lissa_scale": 50.0, "noise": 0.0}


def digits(epochs: int) -> World:
    return World(
        Data("digits"),
        configuration("architectures", "small_cnn", {"width": 16}),
        configuration("recipes", "sgd", {"epochs": epochs, "batch_size": 64, "learning_rate": 0.1}),
    )


def tiny(_precision: str) -> Scale:
    main = Setting(
        "digits, noise 0.3",
        digits(10),
        references=4,
        models=(1,),
        forgets=(10, 100),
        tuning=(1,),
        rates=(0.003, 0.03),
        dampings=(1.0, 0.1),
        fixed=json.dumps(
            {
                "": {"epochs": 3, "batch_size": 64},
                "mixunlearn": {"batch_size": 32, "pairing": "diagonal"},
                "certified_newton": {**NEWTON, "lissa_steps": 10},
            }
        ),
        attack=pgd(steps=10),
        shares=(0.1,),
    )
    return Scale(
        "tiny",
        (main,),
        sequences=((2, 0.2),),
        sequence_runs=1,
        curves=json.dumps({"epochs": 2, "learning_rate": 0.03, "batch_size": 64}),
        curve_runs=1,
        strengths=(("PGD-10, 0.04", pgd(steps=10)), ("fast_min_norm", FAST)),
        weak=LONG_FFGSM,
        robust=(),
        larger=(),
        by_classes=2,
        judged=(10,),
        instances=20,
        probed=1,
        shadows=4,
        threads=1,
        gate=(10,),
    )


def small(_precision: str) -> Scale:
    rates = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    dampings = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
    fixed = {
        "": {"epochs": 10, "batch_size": 64},
        "mixunlearn": {"batch_size": 32, "pairing": "diagonal"},  # dense pairing costs ten times as much
        "certified_newton": NEWTON,
    }
    main = Setting(
        "digits, noise 0.3",
        digits(30),
        references=16,
        models=(1, 2),
        forgets=(10, 20, 30, 40, 50, 60, 70, 80, 90, 100),
        tuning=(1, 2, 3),
        rates=rates,
        dampings=dampings,
        fixed=json.dumps(fixed),
        attack=pgd(steps=10),
    )
    shorter = {
        **fixed,
        "": {"epochs": 4, "decay_every": 2, "batch_size": 64},
        "certified_newton": {**NEWTON, "lissa_steps": 50},
    }
    cifar = Setting(
        "CIFAR-10, four classes, 3,000 images, narrow ResNet-18",
        World(
            Data("cifar10", (1, 6, 7, 8), 3000, 1000),
            configuration("architectures", "resnet18", {"width": 8}),
            configuration(
                "recipes", "sgd", {"epochs": 15, "batch_size": 64, "learning_rate": 0.1, "schedule": "cosine"}
            ),
        ),
        references=8,
        models=(1,),
        forgets=(10, 20, 30, 40, 50),
        tuning=(1, 2),
        rates=rates[1:-1],
        dampings=dampings[1:-1],
        fixed=json.dumps(shorter),
        attack=pgd(steps=10),
        shares=(0.1,),
    )
    robust = {"epochs": 30, "batch_size": 64, "learning_rate": 0.1, "schedule": "cosine"}
    robust_recipes = (
        (
            "TRADES",
            configuration("recipes", "trades", {**robust, "augment": "none", "norm": "l2", "epsilon": 0.3, "steps": 5}),
            8,
        ),
        ("clipped", configuration("recipes", "spectral_clipping", {**robust, "every": 15}), 8),
    )
    return Scale(
        "small",
        (main, cifar),
        sequences=((5, 0.5), (20, 0.5)),
        sequence_runs=8,
        curves=json.dumps({"epochs": 20, "learning_rate": 0.03, "decay_every": 5, "batch_size": 64}),
        curve_runs=3,
        strengths=STRENGTHS,
        weak=LONG_FFGSM,
        robust=robust_recipes,
        larger=(),
        by_classes=6,
        judged=(10, 20, 30, 40, 50),
        instances=500,
        probed=5,
        shadows=16,
        threads=1,
    )


def cifar(name: str, recipe: Configuration, references: int, data: str = "cifar10") -> Setting:
    """CIFAR-10 and ResNet-18 as in the AMUN paper, whole."""
    return Setting(
        name,
        World(Data(data), configuration("architectures", "resnet18", {}), recipe),
        references=references,
        models=(1, 10, 100),
        forgets=(10, 100, 1000),
        tuning=(1,),
        rates=(0.0001, 0.001, 0.005, 0.01, 0.05, 0.1),
        dampings=(10.0, 3.0, 1.0, 0.3, 0.1, 0.03),
        fixed=json.dumps(
            {
                "": {"epochs": 10, "batch_size": 128, "decay_every": 5},
                "mixunlearn": {"batch_size": 32},
                "certified_newton": NEWTON,
            }
        ),
        attack=pgd(),
    )


def night(precision: str) -> Scale:
    """Whole CIFAR-10 on CPU cores, a night of two of them: disjoint forget sets, 16 references."""
    from dataclasses import replace

    # The rate must rise first: from the start at 0.2, in batches of 512, 12 epochs end at 75.8 % of the test set. With
    # this width 10 epochs end at 85.6 %, with an RT-AUC of 58.1: too few (docs/results.md).
    recipe = {"epochs": 10, "batch_size": 128, "learning_rate": 0.05, "augment": "crop_flip"}
    main = Setting(
        "CIFAR-10, airbench",
        World(
            Data("cifar10"),
            configuration("architectures", "airbench", {"width": 32}),
            configuration("recipes", "fast", recipe | {"precision": precision or "bfloat16"}),
        ),
        references=16,
        models=(1, 10),
        forgets=(1, 2, 3, 4, 5),
        tuning=(0,),
        disjoint=6,
        labels=("AMUN", "AMUN, no D_F", "AMUN+SalUn", "SalUn", "RL"),
        rates=(0.003, 0.01, 0.03),
        dampings=(10.0, 1.0, 0.1),
        fixed=json.dumps(
            {
                "": {"epochs": 2, "batch_size": 128},  # as many for a training of 12 as the paper's 10 for one of 60
                "mixunlearn": {"batch_size": 32, "pairing": "diagonal"},
                "certified_newton": {**NEWTON, "lissa_steps": 50},
            }
        ),
        attack=FAST,
        shares=(0.1,),
    )
    others = tuple(label for label in rows() if label not in main.labels)
    return Scale(
        "night",
        (
            main,
            replace(main, name=f"{main.name}, the other methods", models=(1,), forgets=(1, 2), labels=others),
            replace(main, name=f"{main.name}, half forgotten", models=(1,), forgets=(1, 2), shares=(0.5,), disjoint=0),
        ),
        sequences=((5, 0.1),),
        sequence_runs=1,
        curves=json.dumps({"epochs": 2, "learning_rate": 0.01, "batch_size": 128}),
        curve_runs=1,
        strengths=(("fast_min_norm", FAST),),
        weak=FFGSM.but(steps=8, starts=2),
        robust=(),
        larger=(),
        by_classes=1,
        judged=(1, 2, 3, 4, 5),
        instances=500,
        probed=1,
        shadows=4,
        threads=1,
        priced=True,
        gate=(10, 16, 6),
    )


def gpu30(precision: str) -> Scale:
    from dataclasses import replace

    # The paper's protocol in a tenth of its epochs: cropped and flipped, the rate times 0.1 after each fifth of them.
    common = {**PAPER, "epochs": 20, "step_every": 4, "precision": precision or "bfloat16"}
    main = replace(
        cifar("CIFAR-10, ResNet-18, 20 epochs", configuration("recipes", "sgd", common), 16),
        models=(1,),
        forgets=(10, 100),
        rates=(0.001, 0.01, 0.05),
        dampings=(10.0, 1.0, 0.1),
    )
    return Scale(
        "gpu30",
        (main,),
        sequences=((5, 0.1), (20, 0.4)),
        sequence_runs=1,
        curves=json.dumps({"epochs": 20, "learning_rate": 0.01, "decay_every": 5}),
        curve_runs=1,
        strengths=STRENGTHS,
        weak=FFGSM,
        robust=(
            ("TRADES", configuration("recipes", "trades", {**TRADES, "precision": common["precision"]}), 4),
            ("clipped", configuration("recipes", "spectral_clipping", common), 4),
        ),
        larger=(
            replace(main, name="CIFAR-100, ResNet-18, 20 epochs", world=replace(main.world, data=Data("cifar100"))),
        ),
        by_classes=2,
        judged=(10, 100),
        instances=500,
        probed=1,
        shadows=8,
    )


def paper(precision: str) -> Scale:
    from dataclasses import replace

    common = {**PAPER, **({"precision": precision} if precision else {})}
    recipe = configuration("recipes", "sgd", common)
    main = replace(cifar("CIFAR-10, ResNet-18, 200 epochs", recipe, 128), runs=3)
    larger = (
        replace(main, name="CIFAR-100, ResNet-18", world=replace(main.world, data=Data("cifar100"))),
        replace(
            main,
            name="Tiny-ImageNet, VGG19-BN",
            world=World(Data("tiny-imagenet"), configuration("architectures", "vgg19_bn", {}), recipe),
        ),
    )
    return Scale(
        "paper",
        (main,),
        sequences=((5, 0.1), (20, 0.4)),
        sequence_runs=3,
        curves=json.dumps({"epochs": 20, "learning_rate": 0.01, "decay_every": 5}),
        curve_runs=3,
        strengths=STRENGTHS,
        weak=FFGSM,
        robust=(
            ("TRADES", configuration("recipes", "trades", {}), 128),
            ("clipped", configuration("recipes", "spectral_clipping", common), 128),
        ),
        larger=larger,
        by_classes=9,
        judged=(10, 100, 1000, 10000, 100000),
        instances=2000,
        probed=3,
        shadows=64,
    )


SCALES: Mapping[str, Callable[[str], Scale]] = {
    "tiny": tiny,
    "small": small,
    "night": night,
    "gpu30": gpu30,
    "paper": paper,
}
