"""The parsers, each as a function of bytes that raises nothing but refusals, and what each begins with."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from app.api.http.paging import Pager
from app.api.schemas import DeletionCreate, SampleId
from app.cases import notices
from app.core import ids
from app.core.config import Settings
from app.core.errors import AppError
from app.evidence import certificate
from app.formats import names, uploads
from app.formats.checkpoint_header import CheckpointError, read_header
from app.formats.manifest import SourceError
from app.formats.reference_upload import describe
from lethe import verify
from tests.app.datasets.test_uploads import columns, parquet
from tests.app.evidence.test_certificate import KEY, facts, issue
from tests.app.formats.archive_cases import folder, npz, zipped
from tests.app.formats.test_layouts import tar
from tests.helpers import make_safetensors

CORPUS = Path(__file__).parent / "corpus"
ROOM = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(tempfile.gettempdir())
TRUSTED = [verify.TrustedKey(KEY.private.public_key())]
SECRET = Settings(secret="fuzz", data_dir=Path(tempfile.gettempdir()))
FIELDS = dict.fromkeys(notices.FIELDS, "{{due_on}}")


@dataclass(frozen=True)
class Target:
    """parse: takes bytes; raises only `refusals`. seeds: what a client in good faith would send, and near it."""

    parse: Callable[[bytes], object]
    refusals: tuple[type[BaseException], ...]
    seeds: Callable[[], Iterable[bytes]]
    longest: int = 4096

    def run(self, data: bytes) -> None:
        with contextlib.suppress(self.refusals):
            self.parse(data)

    def corpus(self, name: str) -> list[bytes]:
        """The seeds, and what earlier runs found that reached more."""
        path = CORPUS / f"{name}.zip"
        if not path.exists():
            return list(self.seeds())
        with zipfile.ZipFile(path) as archive:
            return [*self.seeds(), *map(archive.read, archive.namelist())]


def on_file(parse: Callable[[Path], object]) -> Callable[[bytes], object]:
    """The parser of a file, given bytes."""

    def run(data: bytes) -> object:
        path = ROOM / f"lethe-fuzz-{os.getpid()}"
        path.write_bytes(data)
        try:
            return parse(path)
        finally:
            path.unlink()

    return run


def wrapped(data: bytes, wrap: Callable[[bytes], bytes]) -> bytes:
    """Bytes that begin with `W` are the inside of an archive or envelope that is right otherwise: no mutation finds
    a checksum or a signature."""
    return wrap(data[1:]) if data[:1] == b"W" else data


# -- files of samples ------------------------------------------------------------------------------


def all_of(path: Path, forms: tuple[str, ...]) -> None:
    """Check it and look at every picture, as far as a file is read before anything decodes."""
    found = uploads.read(path, forms=forms)
    for _ in uploads.pictures(path, found.form):
        pass


def sample_zip(inside: bytes) -> bytes:
    name, _, data = inside.partition(b"\n")
    return zipped([("train/ant/a.png", b"x"), (name.decode("latin-1").partition("\0")[0] or "train/bee/b.png", data)])


def npz_with(inside: bytes) -> bytes:
    """The first byte says which array the rest is."""
    members = {"images.npy": npy_of("images"), "labels.npy": npy_of("labels"), "ids.npy": npy_of("ids")}
    name = ("images.npy", "labels.npy", "ids.npy", "split.npy", "subjects.npy")[inside[0] % 5 if inside else 0]
    return zipped(members | {name: inside[1:]}, zipfile.ZIP_STORED)


def npy_of(name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(npz())) as archive:
        return archive.read(f"{name}.npy")


def tar_with(inside: bytes) -> bytes:
    return tar({"a.png": b"x", "a.cls": b"0", "b.png": b"x", "b.json": inside})


def reference_npz(inside: bytes) -> bytes:
    members = {f"{name}.npy": npy_of(name) for name in ("images", "labels", "ids")}
    return zipped(members | {("logits.npy", "members.npy")[inside[0] % 2 if inside else 0]: inside[1:]})


# -- certificates and case files -------------------------------------------------------------------


def envelope_of(payload: bytes) -> bytes:
    """Signed by the trusted key, whatever it says."""
    kind = verify.PAYLOAD_TYPE
    signed = b"DSSEv1 %d %s %d " % (len(kind), kind.encode(), len(payload)) + payload
    signature = {"keyid": KEY.id, "sig": base64.b64encode(KEY.sign(signed)).decode()}
    encoded = base64.b64encode(payload).decode()
    return json.dumps({"payload": encoded, "payloadType": kind, "signatures": [signature]}).encode()


def canonical(data: bytes) -> bytes:
    """The same document in its canonical form, where it is one: the verifier takes no other."""
    try:
        return verify.canonical_json(json.loads(data)).encode()
    except Exception:
        return data


def certified(inside: bytes) -> bytes:
    return envelope_of(canonical(inside))


def case_with(inside: bytes) -> bytes:
    """A case file whose part is of the kind that the first byte says; the manifest is signed."""
    manifest, _, rest = inside[1:].partition(b"\n\n")
    name = ("proof.json", "head.txt", "decision-1.json", "certificate.json", "witnessed.txt")[
        inside[0] % 5 if inside else 0
    ]
    part = envelope_of(canonical(rest)) if name.startswith(("decision", "certificate")) else rest
    return zipped({"manifest.json": certified(manifest), name: part, "trust.json": rest})


def check_certificate(data: bytes) -> None:
    verify.verify(wrapped(data, certified), TRUSTED, verify.Evidence(earlier_head=data[:200].decode("latin-1")))


def check_case(data: bytes) -> None:
    whole = wrapped(data, case_with)
    verify.verify_case(whole, TRUSTED)
    verify.verify_case(whole, [])


def statement() -> bytes:
    return certificate.canonical(issue(facts())[0])


def case_manifest() -> bytes:
    predicate = {
        "wording": "w",
        "issued_at": "2026-03-12T09:30:00.000000Z",
        "request": "del_1",
        "status": "accepted",
        "certificate": None,
        "certificates": [],
        "not_proved": [],
    }
    subject = [{"name": "proof.json", "digest": {"sha256": "ab" * 32}}]
    return json.dumps(
        {
            "_type": verify.STATEMENT_TYPE,
            "predicateType": verify.CASE_TYPES[0],
            "predicate": predicate,
            "subject": subject,
        }
    ).encode()


# -- texts -----------------------------------------------------------------------------------------

SAMPLE_IDS: TypeAdapter[Any] = TypeAdapter(list[SampleId])


def parse_ids(data: bytes) -> None:
    given = SAMPLE_IDS.validate_json(data)
    for name in given:
        if names.normal(names.normal(name)) != names.normal(name):
            raise AssertionError("a name has two normal forms")
        names.other_forms(name)
        ids.is_id("del", name)


def parse_lines(data: bytes) -> None:
    for line in data.split(b"\n"):
        if line.strip():
            try:
                DeletionCreate.model_validate_json(line)
            except ValidationError as error:
                error.errors(include_url=False, include_context=False)


def parse_token(data: bytes) -> None:
    scope = ("datasets", "ten_first", None)
    pager = Pager(SECRET, 50, None, scope)
    if data[:1] == b"W":
        last = data[1:].decode("utf-8", "ignore")
        if last and Pager(SECRET, 50, pager._seal(last), scope).after != last:
            raise AssertionError("a token does not open to what was sealed")
    elif data and Pager(SECRET, 50, data.decode("latin-1"), scope).after is not None:
        raise AssertionError("a token that nobody sealed was taken")


def parse_template(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    notices.check(text)
    notices.render(text, FIELDS)


def near(*data: bytes) -> Callable[[], list[bytes]]:
    return lambda: list(data)


TARGETS: dict[str, Target] = {
    "safetensors": Target(
        lambda data: read_header(io.BytesIO(data)),
        (CheckpointError,),
        lambda: [make_safetensors({"a.weight": _zeros((2, 3)), "b": _zeros((1,))})],
    ),
    "parquet": Target(
        on_file(lambda path: all_of(path, ("parquet",))),
        (SourceError, MemoryError),
        lambda: [parquet(columns(2)), parquet({"image": [b"x"], "label": ["a"], "split": ["train"]})],
    ),
    "npz": Target(
        lambda data: on_file(lambda path: all_of(path, ("npz",)))(wrapped(data, npz_with)),
        (SourceError, MemoryError),
        lambda: [npz(), *(b"W" + bytes([n]) + npy_of(name) for n, name in enumerate(("images", "labels", "ids")))],
    ),
    "references": Target(
        lambda data: on_file(lambda path: describe(str(path)))(wrapped(data, reference_npz)),
        (SourceError, MemoryError),
        lambda: [b"W\x00" + npy_of("labels"), b"W\x01" + npy_of("images")],
    ),
    "zip": Target(
        lambda data: on_file(lambda path: all_of(path, ("image folder",)))(wrapped(data, sample_zip)),
        (SourceError, MemoryError),
        lambda: [zipped(folder(3)), b"Wtrain/bee/b.png\nx", b"Wbee/b.png\n"],
    ),
    "tar": Target(
        lambda data: on_file(lambda path: all_of(path, ("webdataset",)))(wrapped(data, tar_with)),
        (SourceError, MemoryError),
        lambda: [tar({"a.png": b"x", "a.cls": b"0"}), b'W{"label": 1, "id": "x", "split": "train"}'],
        longest=12_000,
    ),
    "ids": Target(parse_ids, (ValidationError,), near(b'["person-1", "e\xcc\x81", "del_0123"]', b'["\\u00e9"]')),
    "ndjson": Target(
        parse_lines,
        (),
        near(
            b'{"dataset": "d", "sample_ids": ["1"], "ground": "17(1)(a)", "received_at": "2026-01-02"}\n{}\n',
            b'{"dataset": "d", "subjects": ["a"], "jurisdiction": "gdpr:DE-BY", "received_at": "2026-01-02T03:04:05Z"}',
        ),
    ),
    "page-token": Target(parse_token, (AppError,), near(b"Wdst_01", b"AAAAAAAAAAAAAAAAAAAAAGRzdF8wMQ")),
    "template": Target(
        parse_template, (ValueError,), near(b"Dear {{ person }}, due {{due_on}}", b"<b>{{x}}</b>", b"{{")
    ),
    "certificate": Target(
        check_certificate, (), lambda: [b"W" + statement(), json.dumps(issue(facts())[1]).encode()], longest=16_000
    ),
    "case-file": Target(
        check_case,
        (),
        lambda: [
            b"W" + bytes([n]) + case_manifest() + b"\n\n" + rest
            for n, rest in enumerate((b'{"hashes": []}', b"lethe-log/x\n1\nAA==\n", b"{}", statement(), b"x\n\n"))
        ],
        longest=16_000,
    ),
}


def _zeros(shape: tuple[int, ...]) -> Any:
    import numpy as np

    return np.zeros(shape, np.float32)
