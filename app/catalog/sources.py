"""Sources of data, by name: their parameters."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    PositiveInt,
    model_validator,
)

from app.catalog.base import CLASS_NAME, OPTION_NAME, OPTION_TEXT, PREFIX, TORCHVISION_SET, Entry, Params


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
    """Composed (NFC), as `app.formats.names` has all names."""
    composed = tuple(unicodedata.normalize("NFC", name) for name in names)
    if len(set(composed)) < len(composed):
        raise ValueError("class names must differ")
    return composed


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


CodePage = Literal[
    "cp437", "cp850", "cp852", "cp866", "cp932", "cp936", "cp949", "cp950", "cp1250", "cp1251", "cp1252", "cp1253",
    "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "gb18030", "shift_jis", "euc_jp", "euc_kr", "big5", "koi8_r",
    "iso8859_1", "iso8859_15",
]  # fmt: skip


ColumnName = Annotated[str, Field(min_length=1, max_length=200, pattern=CLASS_NAME)]


class _Content(Params):
    """What is said of samples that a client brings."""

    holdout_fraction: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="share of the samples kept as never-trained controls when no split is sent",
    )
    seed: int = Field(0, ge=0, lt=2**31)
    class_names: ClassNames | None = Field(
        None, description="by label; null: as the files say: names sorted, a `ClassLabel`'s in its order, else numbers"
    )
    shape: Shape | None = Field(None, description="what the images must have; null: any, also of different sizes")


class UploadSource(_Content):
    """Files sent to `PUT /v1/datasets/{dataset}/content`, or one after the other as shards, in forms that their
    Content-Type names.

    `application/vnd.apache.parquet`: columns `image` and `label` and, optionally, `id`, `split` and `subject`.
    `application/x-npz`: arrays `images` and `labels` and, optionally, `ids`, `holdout` or `split`, and `subject`,
    without pickle; or two arrays for each split, such as `x_train` and `y_train`. `application/zip`: an image folder,
    `<split>/<class>/<name>` or `<class>/<name>`, whose paths are the ids; or an npz: a zip archive is one when all of
    its members end in `.npy`. `application/x-tar`: a WebDataset.
    """

    columns: dict[Literal["id", "image", "label", "split", "subject"], ColumnName] = Field(
        default_factory=dict, description="what Parquet files call these columns, where they call them otherwise"
    )
    names_encoding: CodePage | None = Field(
        None,
        description="code page of all names in zip archives that do not say that they are UTF-8; null: such names are "
        "UTF-8, or refused",
    )


class ObjectsSource(_Content):
    """Pictures that stay in object storage which the operator has allowed (`LETHE_OBJECTS_ALLOWED`). Workers read them
    when they need them.

    With a `prefix`, an image folder that lies there: `<split>/<class>/<name>` or `<class>/<name>`. Without one, send a
    manifest to `PUT /v1/datasets/{dataset}/content`, or several as shards: CSV (`text/csv`), NDJSON
    (`application/x-ndjson`) or Parquet (`application/vnd.apache.parquet`) with `address` (`s3://bucket/key`) and
    `label` and, optionally, `id`, `split` and `subject`.
    """

    prefix: str | None = Field(None, max_length=1000, pattern=PREFIX, description="s3://bucket/folder/")
    columns: dict[Literal["id", "address", "label", "split", "subject"], ColumnName] = Field(
        default_factory=dict, description="what manifests call these columns, where they call them otherwise"
    )


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
    "objects": Entry("pictures that stay in your object storage", ObjectsSource, "engine.data.upload:objects"),
    "external": Entry(
        "data that stay with the client, who sends what is to be forgotten",
        ExternalSource,
        "engine.data.sources:external",
        held=False,
    ),
}
