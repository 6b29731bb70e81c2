import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from app.catalog import DigitsSource, TorchvisionSource, UploadSource
from app.formats.input_contract import Geometry, InputContract
from app.formats.manifest import SourceError
from app.formats.uploads import check, read
from engine.data.samples import Samples
from engine.data.sources import digits, torchvision_set
from engine.data.upload import load_content, upload

# -- digits and torchvision ------------------------------------------------------------------------


def test_digits_are_fixed_by_their_seed_and_halved():
    raw = digits(DigitsSource())
    assert raw.images.shape == (1797, 8, 8, 1)
    assert raw.images.dtype == np.uint8
    assert (~raw.holdout).sum() == 898
    assert raw.ids[42] == "digit-00042"
    assert len(set(raw.ids)) == 1797
    again = digits(DigitsSource())
    assert np.array_equal(raw.images, again.images)
    assert np.array_equal(raw.holdout, again.holdout)
    other = digits(DigitsSource(seed=1))
    assert not np.array_equal(raw.images, other.images)
    assert not np.array_equal(raw.holdout, other.holdout)


def test_digits_may_belong_to_made_up_people():
    raw = digits(DigitsSource(per_person=3))
    names, counts = np.unique(raw.subjects, return_counts=True)
    assert (len(names), set(counts.tolist())) == (600, {1, 3, 2} & set(counts.tolist()))
    for name in ("train", "holdout"):
        sides = raw.holdout[[subject.startswith(name) for subject in raw.subjects]]
        assert set(sides.tolist()) == {name == "holdout"}
    assert digits(DigitsSource()).subjects is None


def test_the_noise_of_digits_is_clipped_gaussian():
    plain = digits(DigitsSource(noise=0)).images.astype(float)
    noisy = digits(DigitsSource(noise=0.1)).images.astype(float)
    middle = (plain > 0.4 * 255) & (plain < 0.6 * 255)
    assert (noisy - plain)[middle].std() / 255 == pytest.approx(0.1, rel=0.03)
    assert plain.max() == 255
    assert len(np.unique(plain)) == 17


def fake(**options):
    return torchvision_set(TorchvisionSource(dataset="FakeData", options=options))


def test_fake_data_has_two_different_halves():
    raw = fake(size=12, image_size="1x8x9", num_classes=3)
    assert raw.images.shape == (24, 8, 9, 1)
    assert raw.ids[0] == "train-00000"
    assert raw.ids[12] == "test-00000"
    assert raw.holdout.tolist() == [False] * 12 + [True] * 12
    assert set(raw.labels) <= {0, 1, 2}
    assert not np.array_equal(raw.images[:12], raw.images[12:])
    assert np.array_equal(fake(size=12, image_size="1x8x9", num_classes=3).images, raw.images)
    assert fake(size=2, image_size=8).images.shape == (4, 8, 8, 3)


@pytest.mark.parametrize(
    ("dataset", "options", "reason"),
    [
        ("Nonesuch", {}, "no dataset"),
        ("VisionDataset", {}, "no dataset|could not be loaded|cannot download"),
        ("FakeData", {"colour": 1}, "does not take the options colour"),
        ("FakeData", {"transform": "x"}, "does not take the options transform"),
        ("FakeData", {"image_size": "8x8"}, "image_size"),
        ("FakeData", {"image_size": "axbxc"}, "could not be loaded"),
        ("FakeData", {"image_size": "3x60000x60000"}, "sides of 1 to 1024"),
        ("FakeData", {"size": 10**12}, "size must be"),
        ("FakeData", {"size": 0}, "size must be"),
        ("FakeData", {"size": -5}, "size must be"),
        ("FakeData", {"size": 100_000, "image_size": "3x1024x1024"}, "GiB"),
        ("CIFAR10", {"root": "/etc"}, "does not take the options root"),
        ("CIFAR10", {}, "no folder"),
    ],
)
def test_a_torchvision_set_that_cannot_be_had_is_refused(dataset, options, reason):
    with pytest.raises(SourceError, match=reason):
        torchvision_set(TorchvisionSource(dataset=dataset, options=options))


@pytest.mark.parametrize("dataset", ["Caltech101", "CocoDetection", "ImageNet"])
def test_sets_without_download_or_halves_are_refused(dataset, tmp_path):
    with pytest.raises(SourceError) as caught:
        torchvision_set(TorchvisionSource(dataset=dataset), tmp_path)
    assert str(tmp_path) not in caught.value.detail


# -- Parquet ---------------------------------------------------------------------------------------


def encoded(pixels, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def pictures(n, shape=(6, 5, 3)):
    return np.random.default_rng(0).integers(0, 256, (n, *shape), dtype=np.uint8)


def table(n=6, **columns):
    images = [encoded(each) for each in pictures(n)]
    return {"id": [f"person-{row}" for row in range(n)], "image": images, "label": list(range(n))} | columns


@pytest.fixture
def write(tmp_path):
    def write(columns, schema=None):
        path = tmp_path / "data.parquet"
        pq.write_table(pa.table(columns, schema=schema), path, row_group_size=4)
        return path

    return write


def test_a_file_is_decoded_in_its_order(write):
    raw = load_content(write(table()), 0.5, seed=0)
    assert np.array_equal(raw.images, pictures(6))
    assert raw.ids == [f"person-{row}" for row in range(6)]
    assert raw.labels.tolist() == list(range(6))
    assert raw.holdout.sum() == 3
    samples = Samples.from_arrays(raw.images, raw.labels)
    assert samples.shape == (3, 6, 5)
    assert samples.num_classes == 6
    assert np.array_equal(samples.images[2].permute(1, 2, 0).numpy(), pictures(6)[2])


def test_structs_integer_ids_and_splits_are_taken(write):
    images = [{"bytes": encoded(each), "path": None} for each in pictures(3)]
    path = write(table(3, id=[7, 8, 9], image=images, split=["test", "train", "holdout"]))
    raw = load_content(path, 0.2, 0)
    assert raw.ids == ["7", "8", "9"]
    assert raw.holdout.tolist() == [True, False, True]
    assert np.array_equal(raw.images, pictures(3))


def test_grey_stays_grey_and_becomes_colour_beside_colour(write):
    grey = pictures(2, (6, 5))
    raw = load_content(write(table(2, image=[encoded(each) for each in grey])), 0, 0)
    assert np.array_equal(raw.images, grey[..., None])
    mixed = [encoded(grey[0]), encoded(pictures(1)[0])]
    raw = load_content(write(table(2, image=mixed)), 0, 0)
    assert np.array_equal(raw.images[0], np.repeat(grey[0][..., None], 3, axis=2))


def test_the_holdout_is_drawn_from_the_seed(write):
    path = write(table(40))
    drawn = [load_content(path, 0.25, seed).holdout for seed in (0, 0, 1)]
    assert drawn[0].sum() == 10
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


@pytest.mark.parametrize(
    ("columns", "detail", "errors"),
    [
        (
            {"id": ["a", "b", "a", "c", "c", "c"]},
            "3 problems",
            ["row 2: the same id as row 0", "row 4: the same id as row 3", "row 5: the same id as row 3"],
        ),
        (
            {"id": ["a", None, "", "d", "e", "x" * 201]},
            "3 problems",
            ["row 1: the id must", "row 2: the id must", "row 5: the id must"],
        ),
        (
            {"label": [0, 1, -1, 2, None, 2**60]},
            "3 problems",
            ["row 2: the label", "row 4: the label", "row 5: the label"],
        ),
        (
            {"split": ["train", "test", "trial", None, "train", "train"]},
            "2 problems",
            ["row 2: the split", "row 3: the split"],
        ),
        ({"label": [0.5] * 6}, "right types", ["column label"]),
        ({"label": [[0, 1]] * 6}, "right types", ["column label holds lists: each sample must have one label"]),
        ({"id": [0.5] * 6, "image": ["text"] * 6}, "right types", ["column id", "column image"]),
        ({"split": [1] * 6}, "right types", ["column split"]),
    ],
)
def test_the_cheap_check_names_rows_and_never_ids(write, columns, detail, errors):
    with pytest.raises(SourceError, match=detail) as caught:
        read(write(table(**columns)))
    assert len(caught.value.errors) == len(errors)
    assert all(got.startswith(start) for got, start in zip(caught.value.errors, errors, strict=True))
    assert "person" not in str(caught.value.errors)


def test_at_most_twenty_rows_are_named(write):
    with pytest.raises(SourceError, match="49 problems") as caught:
        read(write(table(50, id=["same"] * 50)))
    assert len(caught.value.errors) == 20


def test_a_file_without_training_samples_is_refused(write):
    with pytest.raises(SourceError, match="no training sample"):
        check(write(table(split=["test"] * 6)))


@pytest.mark.parametrize("missing", ["image", "label"])
def test_a_missing_column_is_refused(write, missing):
    columns = table()
    del columns[missing]
    with pytest.raises(SourceError, match=f"one column each of: {missing}"):
        read(write(columns))


def test_an_empty_file_and_one_that_is_not_parquet_are_refused(write, tmp_path):
    schema = pa.schema([("id", pa.string()), ("image", pa.binary()), ("label", pa.int64())])
    with pytest.raises(SourceError, match="0 rows"):
        read(write({"id": [], "image": [], "label": []}, schema))
    for content in (b"", b"PAR1 nothing PAR1", b"id,image,label\n"):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(SourceError, match=r"not a readable Parquet file|neither Parquet"):
            read(tmp_path / "other")


def test_a_truncated_file_is_refused(write):
    path = write(table())
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(SourceError, match="not a readable Parquet file"):
        read(path)


def bomb():
    """A PNG of a few kilobytes that unfolds to 12,000 x 12,000 pixels."""
    return encoded(np.zeros((12_000, 12_000), dtype=np.uint8))


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"not an image", "cannot be decoded"),
        (b"", "there is no image"),
        (None, "there is no image"),
        (encoded(pictures(1)[0])[:40], "cannot be decoded"),
        (bomb(), "12000 x 12000 pixels; at most"),
    ],
)
def test_an_image_that_cannot_be_taken_names_its_row(write, image, reason):
    columns = table()
    columns["image"][4] = image
    with pytest.raises(SourceError, match="some images") as caught:
        load_content(write(columns), 0, 0)
    assert len(caught.value.errors) == 1
    assert caught.value.errors[0].startswith("row 4: ")
    assert reason in caught.value.errors[0]


def test_images_of_different_sizes_need_a_contract(write):
    images = [encoded(pictures(1, (6, width, 3))[0]) for width in (5, 7)]
    path = write(table(2, image=images))
    with pytest.raises(SourceError, match="different sizes"):
        load_content(path, 0, 0)
    contract = InputContract(geometry=Geometry(resize=(4, 4)))
    assert load_content(path, 0, 0, contract=contract).images.shape == (2, 4, 4, 3)


def test_nothing_uploaded_is_said():
    with pytest.raises(SourceError, match="nothing has been uploaded"):
        upload(UploadSource(), None, None)
