"""What was erased stays out: of later datasets by content, by subject and by id, and of later models by their bytes."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from sqlalchemy import select

from app.core.config import Settings
from app.core.keys import FIRST_TENANT
from app.core.tables import AuditEvent, Dataset, Model
from app.datasets import suppression
from app.datasets.suppression import Known, Marker
from app.formats import depth, marks
from app.main import create_app
from app.models import records as models
from app.releases import export
from tests.app.datasets.test_uploads import parquet
from tests.app.formats.archive_cases import zipped
from tests.app.formats.test_pictures import tiff
from tests.helpers import SAFETENSORS, is_problem
from tests.support import QUICK_MODEL, QUICK_POLICY, Account, Document
from tests.trained import Trained
from worker.jobs import ingest
from worker.run_one import run_one

NPZ = "application/x-npz"
RNG = np.random.default_rng(5)
IMAGES = RNG.integers(0, 256, (12, 8, 8, 1), dtype=np.uint8)


def packed(images: np.ndarray, ids: list[str], subjects: list[str] | None = None) -> bytes:
    there: dict[str, Any] = {"images": images, "labels": np.arange(len(ids)) % 2, "ids": np.array(ids)}
    if subjects:
        there["subject"] = np.array(subjects)
    file = io.BytesIO()
    np.savez(file, **there)
    return file.getvalue()


def taken_in(account: Account, data: bytes, kind: str = NPZ, **fields: Any) -> Document:
    """A dataset of this content, once it was ingested."""
    source = {"name": "upload", "params": {"holdout_fraction": 0.0}}
    made = account.post("/v1/datasets", {"name": "d", "source": source} | fields)["id"]
    answer = account.http.put(f"/v1/datasets/{made}/content", content=data, headers={"Content-Type": kind})
    assert answer.status_code == 202, answer.text
    account.work()
    return account.get(f"/v1/datasets/{made}")


def names(account: Account, dataset: str) -> list[str]:
    return [item["id"] for item in account.get(f"/v1/datasets/{dataset}/samples")["items"]]


IDS = [f"s{number}" for number in range(12)]


def erased(account: Account, **fields: Any) -> str:
    """A dataset of which the first two samples were erased; no model was trained on it."""
    dataset = taken_in(account, packed(IMAGES, IDS), **fields)["id"]
    account.delete(dataset, IDS[:2])
    account.work()
    assert account.get(f"/v1/datasets/{dataset}")["erased_samples"] == 2
    return dataset


@pytest.mark.validation
def test_the_same_content_under_other_ids_is_left_out(account: Account) -> None:
    erased(account)
    again = taken_in(account, packed(IMAGES, [f"other{number}" for number in range(12)]))
    assert (again["samples"], again["erased_samples"]) == (12, 2)
    assert names(account, again["id"]) == [f"other{number}" for number in range(2, 12)]
    [job] = account.get("/v1/jobs", kind="ingest", dataset=again["id"])["items"]
    assert job["result"] == {"samples": 12, "left_out": 2}


@pytest.mark.parametrize("stored", ["array", "pictures"])
@pytest.mark.validation
def test_a_picture_that_comes_turned_mirrored_or_with_its_colours_reversed_is_known(
    account: Account, stored: str
) -> None:
    """As seen: a telephone's picture came back without its EXIF, and an array in OpenCV's order of colours."""
    colour = RNG.integers(0, 256, (12, 8, 12, 3), dtype=np.uint8)
    if stored == "array":
        first = taken_in(account, packed(colour, IDS))
        named = IDS[:2]
    else:
        exif = Image.Exif()
        exif[0x0112] = 6
        first = taken_in(account, folder_of(colour, exif=exif), "application/zip")
        named = names(account, first["id"])[:2]
    account.delete(first["id"], named)
    account.work()
    forms = {
        "as it lies without EXIF": colour,
        "a quarter": np.rot90(colour, axes=(1, 2)),
        "mirrored": colour[:, :, ::-1],
        "reversed": colour[..., ::-1],
        "turned and reversed": np.rot90(colour, 3, axes=(1, 2))[..., ::-1],
    }
    for name, images in forms.items():
        again = taken_in(account, packed(np.ascontiguousarray(images), [f"{name} {n}" for n in range(12)]))
        assert again["erased_samples"] == 2, name


@pytest.mark.parametrize("form", ["16-bit array", "floats", "16-bit PNG"])
@pytest.mark.validation
def test_what_was_taken_in_before_as_other_pixels_is_known_in_the_same_file(account: Account, form: str) -> None:
    """Versions before scaled 8 bits that were shifted, or divided by 256. What was erased of such a file stays out."""
    wide = IMAGES.astype(np.uint16) << 8
    sent = {
        "16-bit array": (packed(wide, IDS), NPZ),
        "floats": (packed((IMAGES / 256).astype(np.float32), IDS), NPZ),
        "16-bit PNG": (folder_of(wide[..., 0]), "application/zip"),
    }
    before = packed(depth.as_before(IMAGES), [f"b{number}" for number in range(12)])
    first = taken_in(account, before)
    account.delete(first["id"], ["b0", "b1"])
    account.work()
    again = taken_in(account, *sent[form])
    assert again["erased_samples"] == 2


@pytest.mark.validation
def test_a_file_of_12_bits_that_was_erased_before_stays_out(account: Account) -> None:
    """The versions before took it in sixteen times as dark."""
    values = [RNG.integers(0, 4096, (8, 8)) for _ in range(4)]
    former = [((each * 255 + 32767) // 65535).astype(np.uint8) for each in values]
    first = taken_in(account, packed(np.stack(former)[..., None], [f"b{number}" for number in range(4)]))
    account.delete(first["id"], ["b0", "b1"])
    account.work()
    members = {f"{number % 2}/p{number}.tif": tiff(each, 12) for number, each in enumerate(values)}
    again = taken_in(account, zipped(members), "application/zip")
    assert again["erased_samples"] == 2


def folder_of(images: np.ndarray, **how: Any) -> bytes:
    """A zip of PNG pictures."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number, image in enumerate(images):
            picture = io.BytesIO()
            Image.fromarray(image).save(picture, "PNG", **how)
            archive.writestr(f"{number % 2}/p{number:02}.png", picture.getvalue())
    return file.getvalue()


@pytest.mark.validation
def test_the_pixels_of_what_is_left_out_are_not_kept(account: Account) -> None:
    erased(account)
    again = taken_in(account, packed(IMAGES, [f"other{number}" for number in range(12)]))
    stored = [path.read_bytes() for path in (account.settings.data_dir / "blobs").rglob("*") if path.is_file()]
    assert not any(IMAGES[0].tobytes() in content or IMAGES[1].tobytes() in content for content in stored)
    assert any(IMAGES[2].tobytes() in content for content in stored)
    assert again["state"] == "ready"


@pytest.mark.validation
def test_an_id_means_something_in_its_namespace_only(account: Account) -> None:
    erased(account, id_namespace="customers")
    fresh = RNG.integers(0, 256, IMAGES.shape, dtype=np.uint8)
    elsewhere = taken_in(account, packed(fresh, IDS))
    same = taken_in(account, packed(fresh[::-1].copy(), IDS), id_namespace="customers")
    another = taken_in(account, packed(fresh, IDS), id_namespace="staff")
    assert [each["erased_samples"] for each in (elsewhere, same, another)] == [0, 2, 0]
    assert names(account, same["id"]) == IDS[2:]


@pytest.mark.validation
def test_a_person_who_was_erased_does_not_come_back_with_new_pictures(account: Account) -> None:
    people = ["ann", "ann", "bob", *["cid"] * 9]
    dataset = taken_in(account, packed(IMAGES, IDS, people))["id"]
    account.post("/v1/deletion-requests", {"dataset": dataset, "subjects": ["ann"], "jurisdiction": "gdpr"}, 202)
    account.post("/v1/deletion-requests", {"dataset": dataset, "sample_ids": ["s2"], "jurisdiction": "gdpr"}, 202)
    account.work()
    fresh = RNG.integers(0, 256, IMAGES.shape, dtype=np.uint8)
    again = taken_in(account, packed(fresh, [f"n{number}" for number in range(12)], people))
    assert names(account, again["id"])[0] == "n2", "ann's two are left out; bob asked for one sample, not for himself"
    assert again["erased_samples"] == 2


@pytest.mark.validation
def test_the_name_of_a_class_goes_with_the_last_of_its_samples(account: Account) -> None:
    """A class may be called after a person."""
    source = {"name": "upload", "params": {"holdout_fraction": 0.0, "class_names": ["ann", "bob"]}}
    first = taken_in(account, packed(IMAGES, IDS), source=source)
    account.delete(first["id"], IDS[::2])
    account.work()
    again = taken_in(account, packed(IMAGES, [f"o{number}" for number in range(12)]), source=source)
    assert (again["class_names"], again["erased_samples"]) == ([None, "bob"], 6)
    for dataset in (account.get(f"/v1/datasets/{first['id']}"), again):
        assert dataset["source"]["params"]["class_names"] == [None, "bob"]
    account.http.delete(f"/v1/datasets/{again['id']}")
    assert account.get(f"/v1/datasets/{again['id']}")["source"]["params"]["class_names"] is None


@pytest.mark.parametrize(("named", "ann"), [(True, "ann"), (False, "ann"), (True, "Zoe\u0308"), (False, "Zoe\u0308")])
@pytest.mark.validation
def test_the_name_of_a_class_goes_from_its_models_and_what_they_export(account: Account, named: bool, ann: str) -> None:
    """As seen: the dataset forgot the name, and the next version's export had it. Without names of the dataset's own,
    a network's outputs are in the order of its labels."""
    params: Document = {"holdout_fraction": 0.0} | ({"class_names": [ann, "bob"]} if named else {})
    dataset = taken_in(account, packed(IMAGES, IDS), source={"name": "upload", "params": params})["id"]
    outputs = ["bob", ann] if named else [ann, "bob"]
    body = {"name": "m", "dataset": dataset, **QUICK_MODEL, "policy": QUICK_POLICY, "input": {"class_names": outputs}}
    made = account.post("/v1/models", body)
    account.delete(dataset, IDS[::2])
    account.work()
    left = [name if name == "bob" else None for name in outputs]
    assert account.get(f"/v1/models/{made['id']}")["input"]["class_names"] == left
    with account.database.read() as session:
        model, row = session.get_one(Model, made["id"]), session.get_one(Dataset, dataset)
        contract = models.input_of(model)
        assert contract.order(row.class_names, 2) == ([1, 0] if named else None)
        exported = export._class_names(contract, row)
    assert exported == [name or f"LABEL_{output}" for output, name in enumerate(left)]


def plain(marker: Marker, images: np.ndarray) -> list[str | None]:
    """The marks by which pictures are looked up."""
    made = [marks.of_pixels(marker.key, image) for image in images]
    return [mark.hex() if mark else None for mark in made]


@pytest.mark.validation
def test_what_is_carried_to_be_unlearned_is_taken_in(account: Account) -> None:
    """A second model may have to forget the same samples."""
    erased(account)
    rows = [Dataset(id="dst_x", tenant_id=FIRST_TENANT, carried_for=model) for model in (None, "mdl_1")]
    contents = plain(Marker.of(account.settings, FIRST_TENANT), IMAGES)
    known = [Known(account.database, account.settings, row) for row in rows]
    assert [each.look(lambda _: []) for each in known] == [set(), set()]
    found = [each.among(IDS, [None] * 12, [contents]).tolist() for each in known]
    assert found == [[True, True, *[False] * 10], [False] * 12]


@pytest.mark.validation
def test_what_was_erased_under_an_earlier_secret_stays_out(account: Account) -> None:
    """As the pages said: the secret could not be changed, or what was erased came back."""
    dataset = erased(account, id_namespace="customers")
    row = Dataset(id="dst_x", tenant_id=FIRST_TENANT, id_namespace="customers")
    fresh = RNG.integers(0, 256, IMAGES.shape, dtype=np.uint8)
    body, key = {"dataset": dataset, "sample_ids": IDS[3:4], "jurisdiction": "gdpr"}, {"Idempotency-Key": "one"}
    first = account.http.post("/v1/deletion-requests", json=body, headers=key)
    earlier = account.settings.secret_bytes().decode()
    given = Settings(secret="the new one", earlier_secrets=f"older, {earlier}")
    changed = account.settings.model_copy(
        update={"secret": given.secret, "earlier_secrets": given.earlier_secrets, "data_dir": account.settings.data_dir}
    )
    for images, names_ in ((IMAGES, [f"o{n}" for n in range(12)]), (fresh, IDS)):
        contents = [plain(marker, images) for marker in Marker.each(changed, FIRST_TENANT)]
        known = Known(account.database, changed, row)
        known.look(lambda _: [])
        found = known.among(names_, [None] * 12, contents).tolist()
        assert found == [True, True, False, names_ == IDS, *[False] * 8], "the fourth id has an open request"
    with TestClient(create_app(changed)) as http:
        http.headers.update(account.http.headers)
        again = http.post("/v1/deletion-requests", json=body, headers=key)
        assert (again.status_code, again.json()) == (202, first.json()), "a retry over the change is the same request"
        gone = http.post("/v1/deletion-requests", json=body | {"sample_ids": IDS[:1]})
        assert [fault["code"] for fault in is_problem(gone, 409, "sample-erased")["errors"]] == ["erased"]


def under_a_new_secret(account: Account) -> Account:
    """The same service, restarted with another secret and the one it had among the earlier ones."""
    given = Settings(secret="the new one", earlier_secrets=account.settings.secret_bytes().decode())
    changed = account.settings.model_copy(
        update={"secret": given.secret, "earlier_secrets": given.earlier_secrets, "data_dir": account.settings.data_dir}
    )
    return Account(changed, account.database, account.http)


@pytest.mark.parametrize("form", ["array", "pictures"])
@pytest.mark.validation
def test_an_ingest_knows_pixels_that_were_erased_under_an_earlier_secret(account: Account, form: str) -> None:
    """And as a picture what was erased as an array."""
    erased(account)
    changed = under_a_new_secret(account)
    others = [f"o{number}" for number in range(12)]
    source = {"name": "upload", "params": {"holdout_fraction": 0.0}}
    made = account.post("/v1/datasets", {"name": "again", "source": source})["id"]
    pictures = parquet({"id": others, "image": [as_png(image) for image in IMAGES], "label": [0, 1] * 6})
    data, kind = (packed(IMAGES, others), NPZ) if form == "array" else (pictures, "application/vnd.apache.parquet")
    account.http.put(f"/v1/datasets/{made}/content", content=data, headers={"Content-Type": kind})
    try:
        changed.work()
    finally:
        changed.close()
    assert names(account, made) == others[2:]


def as_png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image[..., 0]).save(file, "PNG")
    return file.getvalue()


def saved(image: np.ndarray, form: str) -> bytes:
    """A grey picture as an image program saves it in colour, without loss."""
    grey, file = Image.fromarray(image[..., 0]), io.BytesIO()
    kind, mode = {"palette": ("PNG", "P"), "webp": ("WEBP", "RGB"), "gif": ("GIF", "P")}.get(form, ("PNG", form))
    grey.convert(mode).save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


@pytest.mark.parametrize("form", ["RGB", "RGBA", "palette", "webp", "gif", "array"])
@pytest.mark.validation
def test_grey_pixels_that_were_erased_stay_out_in_colour(account: Account, form: str) -> None:
    """As seen: an array had one mark where a picture has two, and came back as any picture in colour."""
    erased(account)
    others = [f"o{number}" for number in range(12)]
    if form == "array":
        again = taken_in(account, packed(np.repeat(IMAGES, 3, axis=3), others))
    else:
        pictures = parquet({"id": others, "image": [saved(image, form) for image in IMAGES], "label": [0, 1] * 6})
        again = taken_in(account, pictures, kind="application/vnd.apache.parquet")
    assert (again["state"], names(account, again["id"])) == ("ready", others[2:])


@pytest.mark.validation
def test_what_a_mac_called_a_person_before_there_was_one_form_stays_out(account: Account) -> None:
    decomposed = "Rene\u0301"
    with account.database.write() as session:
        suppression.add(session, FIRST_TENANT, Marker.of(account.settings, FIRST_TENANT).subjects([decomposed]))
    again = taken_in(account, packed(IMAGES, IDS, [decomposed, *["x"] * 11]))
    assert names(account, again["id"]) == IDS[1:]
    found = account.post("/v1/deletion-requests:find", {"subjects": ["nobody", "Ren\u00e9"]})
    assert found["erased"] == [1]


# -- datasets on their way in ----------------------------------------------------------------------

PEOPLE = ["p1", "p1", *["p2"] * 10]


def on_its_way(account: Account, images: np.ndarray, ids: list[str], **fields: Any) -> str:
    """A dataset whose ingest is queued."""
    source = {"name": "upload", "params": {"holdout_fraction": 0.0}}
    made = str(account.post("/v1/datasets", {"name": "on its way", "source": source} | fields)["id"])
    headers = {"Content-Type": NPZ}
    answer = account.http.put(f"/v1/datasets/{made}/content", content=packed(images, ids, PEOPLE), headers=headers)
    assert answer.status_code == 202, answer.text
    return made


def work_on(account: Account, dataset: str) -> Document:
    [job] = account.get("/v1/jobs", kind="ingest", dataset=dataset)["items"]
    while account.get(f"/v1/jobs/{job['id']}")["state"] == "queued":
        run_one(account.resources, "first", job["id"])
    return account.get(f"/v1/datasets/{dataset}")


@pytest.mark.parametrize("same", ["person", "content", "id"])
def test_what_becomes_ready_before_a_request_is_carried_out_does_not_escape_it(account: Account, same: str) -> None:
    """As seen: the ingest ran between the answer and the deletion, and the person was found again after it."""
    ours = {"id_namespace": "ours"} if same == "id" else {}
    first = taken_in(account, packed(IMAGES, IDS, PEOPLE), **ours)["id"]
    fresh = RNG.integers(0, 256, IMAGES.shape, dtype=np.uint8)
    images, ids = IMAGES if same == "content" else fresh, IDS if same == "id" else [f"o{n}" for n in range(12)]
    second = on_its_way(account, images, ids, **ours)
    what = {"subjects": ["p1"]} if same == "person" else {"sample_ids": IDS[:2]}
    made = account.post("/v1/deletion-requests", {"dataset": first, "jurisdiction": "gdpr", **what}, 202)["id"]
    assert work_on(account, second)["erased_samples"] == 2
    assert account.get(f"/v1/deletion-requests/{made}")["status"] != "fulfilled"
    account.work()
    assert account.get(f"/v1/deletion-requests/{made}")["status"] == "fulfilled"
    assert names(account, second) == ids[2:]
    if same == "person":
        found = account.post("/v1/deletion-requests:find", {"subjects": ["p1"]})
        assert (found["held"], found["erased"]) == ([], [0])


@pytest.mark.validation
def test_a_request_that_is_cancelled_keeps_nobody_out(account: Account) -> None:
    first = taken_in(account, packed(IMAGES, IDS, PEOPLE))["id"]
    made = account.post("/v1/deletion-requests", {"dataset": first, "subjects": ["p1"], "jurisdiction": "gdpr"}, 202)
    account.post(f"/v1/deletion-requests/{made['id']}:cancel", {"reason": "a change of mind"})
    assert work_on(account, on_its_way(account, IMAGES, IDS))["erased_samples"] == 0
    assert account.post("/v1/deletion-requests:find", {"subjects": ["p1"]})["erased"] == []


@pytest.mark.parametrize("far", ["accepted", "fulfilled"])
@pytest.mark.parametrize("same", [True, False])
def test_a_request_that_comes_while_a_dataset_is_taken_in_is_seen(
    account: Account, monkeypatch: pytest.MonkeyPatch, far: str, same: bool
) -> None:
    """As seen: what a tenant had erased was looked at once, at the start. What does not concern the dataset does not
    take it in anew."""
    first = taken_in(account, packed(IMAGES, IDS))["id"]
    fresh = RNG.integers(0, 256, IMAGES.shape, dtype=np.uint8)
    second = on_its_way(account, IMAGES if same else fresh, [f"o{number}" for number in range(12)])
    write_images, times = ingest._write_images, []

    def meanwhile(*arguments: Any) -> None:
        write_images(*arguments)
        times.append(1)
        if len(times) == 1:
            account.delete(first, IDS[:2])
            while far == "fulfilled" and run_one(account.resources, "other"):
                pass

    monkeypatch.setattr(ingest, "_write_images", meanwhile)
    ready = work_on(account, second)
    assert (ready["state"], ready["erased_samples"], len(times)) == ("ready", 2 * same, 1 + same)
    [job] = account.get("/v1/jobs", kind="ingest", dataset=second)["items"]
    assert job["result"] == {"samples": 12, "left_out": 2 * same}


def test_a_picture_of_one_colour_is_nobodys(tmp_path: Any) -> None:
    made = Marker.of(Settings(data_dir=tmp_path), "ten_1").contents(np.zeros((1, 8, 8, 1), np.uint8))
    assert made == []


def test_marks_differ_by_tenant_shape_and_secret(tmp_path: Any) -> None:
    one = Marker.of(Settings(data_dir=tmp_path / "a"), "ten_1")
    other = Marker.of(Settings(data_dir=tmp_path / "a"), "ten_2")
    secret = Marker.of(Settings(data_dir=tmp_path / "b"), "ten_1")
    found = [each.contents(IMAGES[:1])[0] for each in (one, other, secret)]
    found += [one.contents(IMAGES[:1].reshape(1, 4, 16, 1))[0], *one.subjects(["s0"]), *one.ids("a", ["s0"])]
    assert len(set(found)) == 6


@pytest.mark.validation
def test_the_old_checkpoint_is_refused_under_any_name(trained: Trained) -> None:
    """As seen: twenty samples were fulfilled, and the same old file became current in another model."""
    http, before = trained.account.http, trained.account.get(f"{trained.where}/versions/1")
    content = http.get(f"{trained.where}/versions/1/checkpoint").content
    assert trained.forget(trained.ids[:20])["status"] == "fulfilled"
    other = trained.account.model(trained.dataset, train=False)["id"]
    for said in ("train-split", trained.ids[20:]):
        answer = http.post(f"/v1/models/{other}/versions", json={"digest": before["digest"], "trained_on": said})
        is_problem(answer, 409, "trained-on-erased")
    assert content, "it was there"


@pytest.mark.validation
def test_the_old_checkpoint_is_refused_before_the_request_is_carried_out(trained: Trained) -> None:
    before = trained.account.get(f"{trained.where}/versions/1")
    trained.delete(trained.ids[:20])
    other = trained.account.model(trained.dataset, train=False)["id"]
    body = {"digest": before["digest"], "trained_on": trained.ids[20:]}
    answer = trained.account.http.post(f"/v1/models/{other}/versions", json=body)
    is_problem(answer, 409, "trained-on-erased")


@pytest.mark.validation
def test_a_checkpoint_that_was_announced_before_is_refused_when_it_comes(trained: Trained) -> None:
    http, before = trained.account.http, trained.account.get(f"{trained.where}/versions/1")
    content = http.get(f"{trained.where}/versions/1/checkpoint").content
    other = trained.account.model(trained.dataset, train=False)["id"]
    where = f"/v1/models/{other}/versions"
    trained.account.post(where, {"digest": before["digest"], "trained_on": trained.ids[20:]})
    trained.forget(trained.ids[:20])
    answer = http.put(f"{where}/1/checkpoint", content=content, headers={"Content-Type": SAFETENSORS})
    is_problem(answer, 409, "trained-on-erased")


def test_a_version_replaced_by_an_unlearning_is_withheld_at_once(trained: Trained) -> None:
    account, where = trained.account, f"{trained.where}/versions/1/checkpoint"
    with account.database.write() as session:  # so that it is not purged within the test
        model = session.get_one(Model, trained.model)
        model.policy = {**model.policy, "grace_seconds": 7 * 86400}
    made = trained.forget(trained.ids[:5])
    is_problem(account.http.get(where), 409, "version-withheld")
    assert account.http.head(where).status_code == 409
    assert account.http.get(f"{trained.where}/versions/2/checkpoint").status_code == 200
    answer = account.http.get(where, params={"reason": "a regulator asked to compare"})
    assert answer.status_code == 200
    assert len(answer.content) == account.get(f"{trained.where}/versions/1")["size"]
    with account.database.read() as session:
        kept = select(AuditEvent.data).where(AuditEvent.kind == "version.withheld-download")
        assert [set(data) for data in session.scalars(kept)] == [{"actor", "key", "digest"}]
    [version, *_] = account.get(f"/v1/deletion-requests/{made['id']}/blast-radius")["versions"]
    assert [each["reason"] for each in version["downloads"]] == ["a regulator asked to compare"]
    reader = account.post("/v1/api-keys", {"name": "reader", "scopes": ["read"]})["token"]
    answer = account.http.get(where, params={"reason": "curious"}, headers={"Authorization": f"Bearer {reader}"})
    is_problem(answer, 403, "scope-missing")


@pytest.mark.parametrize("fields", [{"id_namespace": ""}, {"id_namespace": "x" * 61}])
@pytest.mark.validation
def test_a_namespace_has_a_plain_name(account: Account, fields: Document) -> None:
    source = {"name": "upload", "params": {}}
    answer = account.http.post("/v1/datasets", json={"name": "d", "source": source} | fields)
    is_problem(answer, 422, "schema")
