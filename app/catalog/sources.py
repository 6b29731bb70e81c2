"""Sources of data, by name: their parameters."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    PositiveInt,
    model_validator,
)

from app.catalog.base import CLASS_NAME, OPTION_NAME, OPTION_TEXT, TORCHVISION_SET, Entry, Params


class DigitsSource(Params):
    """The 1,797 digits of 8x8 pixels that ship with scikit-learn, with fixed Gaussian pixel noise.

    Plain digits hide membership (RT-AUC 0.60); with noise 0.3 it shows (0.75 at 87 % test accuracy).
    """

    noise: NonNegativeFloat = Field(0.3, le=2, description="standard deviation, pixels in [0, 1], then clipped")
    seed: int = Field(0, ge=0, lt=2**31, description="of the noise and of the train / holdout halves")
    per_person: PositiveInt | None = Field(
        None,
        le=100,
        description="give the samples to made-up people, this many to each: `train-0`, `train-1` … and `holdout-0` …",
    )


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("class names must differ")
    return names


ClassName = Annotated[str, Field(min_length=1, max_length=200, pattern=CLASS_NAME)]


ClassNames = Annotated[
    tuple[ClassName, ...], Field(strict=False, min_length=1, max_length=10_000), AfterValidator(_distinct)
]


Side = Annotated[int, Field(ge=1, le=1024)]


Shape = Annotated[tuple[Side, Side, Literal[1, 3]], Field(strict=False)]
"""Height, width, channels."""


OptionName = Annotated[str, Field(pattern=OPTION_NAME)]


OptionText = Annotated[str, Field(max_length=200, pattern=OPTION_TEXT)]


OptionInteger = Annotated[int, Field(ge=-(2**53), le=2**53)]


OptionNumber = Annotated[float, Field(ge=-(2**53), le=2**53)]


class TorchvisionSource(Params):
    """Any classification set that `torchvision.datasets` can download or make, by class name."""

    dataset: str = Field("CIFAR10", pattern=TORCHVISION_SET)
    options: dict[OptionName, OptionText | OptionInteger | OptionNumber | bool] = Field(
        default_factory=dict,
        description="further keyword arguments of the dataset class, e.g. size of FakeData",
    )


class UploadSource(Params):
    """Bytes sent by `PUT /v1/datasets/{dataset}/content`, in a form that its Content-Type names.

    `application/vnd.apache.parquet`: columns `id`, `image`, `label` and, optionally, `split` (train or holdout) and
    `subject`. `application/x-npz`: arrays `images`, `labels`, `ids` and, optionally, `holdout` and `subject`, without
    pickle. `application/zip`: an image folder, `train/<class>/<name>.png` and `holdout/<class>/…`, whose paths are the
    ids; or an npz: a zip archive is one when all of its members end in `.npy`.
    """

    holdout_fraction: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="share of the samples kept as never-trained controls when no split is sent",
    )
    seed: int = Field(0, ge=0, lt=2**31)
    class_names: ClassNames | None = Field(
        None, description="by label; null: of an image folder its folders of train, sorted, and else none"
    )
    shape: Shape | None = Field(None, description="what the images must have; null: all as the first one")


class ExternalSource(Params):
    """Data that this service does not hold: no bytes and no ids, only what a model of it must know.

    Each deletion brings the samples to forget with it (`carried_for` of `POST /v1/datasets`), and never-trained
    controls; nothing of them is kept afterwards.
    """

    classes: PositiveInt = Field(10, le=10_000)
    shape: Shape = (32, 32, 3)
    class_names: ClassNames | None = Field(None, description="by label; the folders of image folders sent later")

    @model_validator(mode="after")
    def _as_many(self) -> ExternalSource:
        if self.class_names is not None and len(self.class_names) != self.classes:
            raise ValueError("there must be as many class names as classes")
        return self


SOURCES: dict[str, Entry] = {
    "digits": Entry("scikit-learn's digits, noisy; needs no network", DigitsSource, "engine.data.sources:digits"),
    "torchvision": Entry(
        "a torchvision classification set, downloaded by the worker",
        TorchvisionSource,
        "engine.data.sources:torchvision_set",
        {"dataset": "FakeData", "options": {"size": 20, "image_size": "1x8x8"}},
    ),
    "upload": Entry("bytes that the client streams in", UploadSource, "engine.data.upload:upload"),
    "external": Entry(
        "data that stay with the client, who sends what is to be forgotten",
        ExternalSource,
        "engine.data.sources:external",
        held=False,
    ),
}
