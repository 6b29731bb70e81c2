"""Verify a deletion certificate or a case file offline: `python -m lethe.verify certificate.json --key public.pem`.

This file stands alone. It needs Python and `cryptography`, shares no code with the service that issued the
certificate, and asks no server. Formats: DSSE v1, in-toto Statement v1, RFC 8785 (canonical JSON), RFC 9162
section 2 (Merkle trees), C2SP signed-note and tlog-checkpoint.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import io
import json
import re
import sys
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Object = dict[str, Any]

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
# Of each type, the newest form first. The last one of certificates is that of Lethe 0.1.
PREDICATE_TYPE, *EARLIER_TYPES = (
    "urn:lethe:attestation/deletion/v2",
    "urn:lethe:attestation/deletion/v1",
    "https://lethe.invalid/attestation/deletion/v1",
)
PREDICATE_TYPES = (PREDICATE_TYPE, *EARLIER_TYPES)
NEGATIVE_TYPES = ("urn:lethe:attestation/no-deletion/v2", "urn:lethe:attestation/no-deletion/v1")
CASE_TYPES = ("urn:lethe:attestation/case/v2", "urn:lethe:attestation/case/v1")
DECISION_TYPES = ("urn:lethe:attestation/decision/v2", "urn:lethe:attestation/decision/v1")
ONLINE_SECONDS, ONLINE_BYTES = 20.0, 2**16
MANIFEST, CERTIFICATE, TRUST = "manifest.json", "certificate.json", "trust.json"
NEGATIVE = "negative-report.json"
MAX_BYTES = 64 * 2**20
MAX_PARTS, MAX_CASE_BYTES = 2000, 512 * 2**20  # of a case file, unpacked
NOTHING = type(None)

DATES: dict[str, tuple[type, ...]] = {
    "received_at": (str,), "due_at": (str,), "extended_at": (str, NOTHING), "fulfilled_at": (str,),
}  # fmt: skip
REQUEST_1: dict[str, tuple[type, ...]] = {
    "id": (str,), **DATES, "jurisdiction": (str,), "rule": (str,), "ground": (str,), "decision": (str,),
}  # fmt: skip
REQUEST: dict[str, tuple[type, ...]] = REQUEST_1 | {
    "posted_at": (str,), "ground": (str, NOTHING), "complaint_about": (str, NOTHING), "identity": (dict,),
    "refused": (list,), "decided": (list,),
}  # fmt: skip
OPEN: dict[str, tuple[type, ...]] = {"fulfilled_at": (str, NOTHING)}
CASE_1: dict[str, tuple[type, ...]] = {
    "wording": (str,), "issued_at": (str,), "request": (str,), "certificate": (str, NOTHING), "not_proved": (list,),
}  # fmt: skip

# The exact members of every object of a statement. Objects that are not listed hold figures and are free.
MEMBERS: dict[str, dict[str, tuple[type, ...]]] = {
    "statement": {"_type": (str,), "subject": (list,), "predicateType": (str,), "predicate": (dict,)},
    "subject": {"name": (str,), "digest": (dict,)},
    "predicate": {
        "wording": (str,), "issued_at": (str,), "request": (dict,), "samples": (dict,), "dataset": (dict,),
        "models": (list,), "receipts": (list,), "not_proved": (list,), "supersedes": (str, NOTHING), "log": (dict,),
    },
    "request": REQUEST,
    "request of version 1": REQUEST_1,
    "open request": REQUEST | OPEN,
    "open request of version 1": REQUEST_1 | OPEN,
    "identity": {"status": (str,), "asked_at": (str, NOTHING), "until": (str, NOTHING), "ended_at": (str, NOTHING)},
    "refusal": {"samples": (int,), "ground": (str, NOTHING)},
    "step": {"kind": (str,), "at": (str,), "by": (str,), "proposed_by": (str, NOTHING)},
    "samples": {"count": (int,), "scheme": (str,), "tags": (str,)},
    "dataset": {"id": (str,), "digest": (str, NOTHING)},
    "model": {
        "model": (str,), "version": (int,), "base_digest": (str, NOTHING), "result_digest": (str,),
        "lineage": (list,), "method": (str,), "method_params": (dict,), "remain_access": (str,),
        "seed": (int,), "software": (dict,), "audit": (dict, NOTHING), "verdict": (str,),
    },
    "receipt": {
        "subject": (str,), "detail": (str,), "model": (str, NOTHING), "done_at": (str, NOTHING),
        "due_at": (str, NOTHING), "state": (str,),
    },
    "log": {
        "entry": (dict,), "leaf_index": (int,), "tree_size": (int,), "root": (str,), "inclusion_proof": (list,),
        "head": (str,),
    },
    "entry": {"at": (str,), "data": (dict,), "kind": (str,), "object": (str,)},
    "case": CASE_1 | {"status": (str,), "certificates": (list,)},
    "case of version 1": CASE_1,
    "status": {
        "digest": (str,), "status": (str,), "since": (str,), "superseded_by": (str, NOTHING), "contested_by": (list,),
    },
    "negative report": {
        "wording": (str,), "issued_at": (str,), "about": (str,), "request": (dict, NOTHING), "findings": (list,),
        "not_proved": (list,), "log": (dict,),
    },
    "finding": {
        "model": (str, NOTHING), "version": (int, NOTHING), "job": (str, NOTHING), "state": (str,),
        "method": (str, NOTHING), "verdict": (str,), "why": (str,), "audit": (dict, NOTHING),
    },
    "decision": {"wording": (str,), "issued_at": (str,), "request": (dict,), "log": (dict,)},
}  # fmt: skip


class RefusedError(ValueError):
    """A check that fails; says why."""


def refuse(why: str) -> NoReturn:
    raise RefusedError(why)


@dataclass(frozen=True)
class TrustedKey:
    """A public key that the verifier was given, and when its signatures count."""

    key: Ed25519PublicKey
    not_before: datetime | None = None
    not_after: datetime | None = None

    @property
    def raw(self) -> bytes:
        return self.key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)

    @property
    def id(self) -> str:
        info = serialization.PublicFormat.SubjectPublicKeyInfo
        return "sha256:" + hashlib.sha256(self.key.public_bytes(serialization.Encoding.DER, info)).hexdigest()

    def check(self, signature: bytes, message: bytes, at: datetime | None) -> None:
        if at and ((self.not_before and at < self.not_before) or (self.not_after and at >= self.not_after)):
            refuse(f"the key was not valid on {at.isoformat()}")
        try:
            self.key.verify(signature, message)
        except InvalidSignature:
            refuse("the signature is not of this key over these bytes")


# -- formats ---------------------------------------------------------------------------------------


def parse_json(data: bytes | str) -> Any:
    """JSON without repeated names, NaN or infinities."""

    def members(pairs: list[tuple[str, Any]]) -> Object:
        found = dict(pairs)
        return found if len(found) == len(pairs) else refuse("a JSON object repeats a name")

    def constant(name: str) -> NoReturn:
        refuse(f"{name} is not JSON")

    try:
        return json.loads(data, object_pairs_hook=members, parse_constant=constant)
    except json.JSONDecodeError:
        refuse("this is not JSON, or not all of it")
    except RecursionError:
        refuse("the JSON is nested too deeply")


def unbase64(text: str) -> bytes:
    """Standard base64 in its one canonical spelling."""
    data = base64.b64decode(text, validate=True)
    return data if base64.b64encode(data).decode() == text else refuse("base64 with stray bits")


def unhex(text: str) -> bytes:
    """32 bytes in lower-case hexadecimal."""
    return bytes.fromhex(text) if re.fullmatch("[0-9a-f]{64}", text) else refuse("not 32 bytes in hexadecimal")


def moment(text: str) -> datetime:
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z", text):
        refuse("a time is not RFC 3339 in UTC")
    return datetime.fromisoformat(text)


def canonical_json(value: Any) -> str:
    """RFC 8785."""
    if isinstance(value, dict):
        order = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return "{" + ",".join(canonical_json(name) + ":" + canonical_json(value[name]) for name in order) + "}"
    if isinstance(value, list):
        return "[" + ",".join(canonical_json(member) for member in value) + "]"
    if isinstance(value, float):
        return ecmascript_number(value)
    return json.dumps(value, ensure_ascii=False)


def ecmascript_number(value: float) -> str:
    """ECMA-262, Number::toString, from the shortest digits that read back as the same double."""
    if value < 0:
        return "-" + ecmascript_number(-value)
    if value == 0:
        return "0"
    digits, n = "", 0
    for precision in range(17):
        digits, _, exponent = f"{value:.{precision}e}".partition("e")
        n = int(exponent) + 1
        if float(f"{digits}e{exponent}") == value:
            break
    digits = digits.replace(".", "").rstrip("0")
    k = len(digits)
    if k <= n <= 21:
        return digits + "0" * (n - k)
    if 0 < n <= 21:
        return digits[:n] + "." + digits[n:]
    if -6 < n <= 0:
        return "0." + "0" * -n + digits
    return digits[0] + ("." + digits[1:] if k > 1 else "") + f"e{n - 1:+d}"


def shaped(value: Any, what: str) -> Object:
    """The object, if it has exactly the members that MEMBERS lists for it."""
    wanted = MEMBERS[what]
    if not isinstance(value, dict) or value.keys() != wanted.keys():
        refuse(f"the {what} does not have the members {', '.join(wanted)}")
    for name, types in wanted.items():
        if not isinstance(value[name], types) or isinstance(value[name], bool):
            refuse(f"{what}.{name} is of another type")
    return value


# -- the parts of a certificate --------------------------------------------------------------------


@dataclass(frozen=True)
class Certificate:
    """A certificate whose signature and shape are verified."""

    statement: Object
    digest: str
    key: TrustedKey

    @property
    def predicate(self) -> Object:
        return dict(self.statement["predicate"])

    @property
    def issued_at(self) -> datetime:
        return moment(self.predicate["issued_at"])

    @property
    def about(self) -> Any:
        """The id of the request; of a negative report, of the request or audit."""
        return self.predicate["about"] if self.is_negative else self.predicate["request"]["id"]

    @property
    def is_negative(self) -> bool:
        return bool(self.statement["predicateType"] in NEGATIVE_TYPES)


def open_envelope(data: bytes, trusted: Sequence[TrustedKey]) -> Certificate:
    """Check a certificate's signature before anything in it is believed, then the statement's shape."""
    return open_signed(data, trusted, check_statement)


def open_signed(data: bytes, trusted: Sequence[TrustedKey], check: Callable[[Any], Object]) -> Certificate:
    """Check an envelope's signature before anything in it is believed, then what `check` says of its statement."""
    envelope = parse_json(data)
    if not isinstance(envelope, dict) or envelope.keys() != {"payload", "payloadType", "signatures"}:
        refuse("this is not a DSSE envelope")
    if envelope["payloadType"] != PAYLOAD_TYPE:
        refuse("the envelope holds another type of payload")
    payload = unbase64(envelope["payload"])
    by_id = {key.id: key for key in trusted}
    ours = [s for s in envelope["signatures"] if s["keyid"] in by_id]
    if not ours:
        refuse("no signature is by a key that you trust")
    statement = check(parse_json(payload))
    if canonical_json(statement).encode() != payload:
        refuse("the payload is not in canonical form")
    issued = moment(statement["predicate"]["issued_at"])
    signed = b"DSSEv1 %d %s %d " % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload)) + payload
    for signature in ours:
        by_id[signature["keyid"]].check(unbase64(signature["sig"]), signed, issued)
    return Certificate(statement, "sha256:" + hashlib.sha256(payload).hexdigest(), by_id[ours[0]["keyid"]])


def check_statement(value: Any) -> Object:
    statement = shaped(value, "statement")
    if statement["_type"] != STATEMENT_TYPE or statement["predicateType"] not in PREDICATE_TYPES:
        refuse("the statement is of another type")
    predicate = shaped(statement["predicate"], "predicate")
    check_request(predicate["request"], "request", statement["predicateType"] == PREDICATE_TYPE)
    for part in ("samples", "dataset", "log"):
        shaped(predicate[part], part)
    shaped(predicate["log"]["entry"], "entry")
    models = [shaped(model, "model") for model in predicate["models"]]
    results = [model["result_digest"] for model in models] or [predicate["dataset"]["digest"]]
    if not results[0] or ["sha256:" + s["digest"]["sha256"] for s in subjects(statement)] != results:
        refuse("the subjects are not the results in the statement")
    for model in models:
        check_verdict(model)
    for receipt in predicate["receipts"]:
        if (shaped(receipt, "receipt")["state"] == "done") != bool(receipt["done_at"]):
            refuse("a receipt without a date is called done, or the other way round")
    tags = id_tags(predicate["samples"])
    if len(tags) != predicate["samples"]["count"] or tags != sorted(set(tags)):
        refuse("the tags are not as many distinct ids as the statement counts")
    return statement


def check_request(request: Any, what: str, newest: bool) -> Object:
    """The legal life of a request in the form of the statement's version."""
    if not newest:
        return shaped(request, f"{what} of version 1")
    shaped(shaped(request, what)["identity"], "identity")
    for part in request["refused"]:
        shaped(part, "refusal")
    for step in request["decided"]:
        shaped(step, "step")
    return dict(request)


def check_negative(value: Any) -> Object:
    """A negative report: its subject is what it says, and something in it is no success."""
    statement = shaped(value, "statement")
    if statement["_type"] != STATEMENT_TYPE or statement["predicateType"] not in NEGATIVE_TYPES:
        refuse("the statement is of another type")
    predicate = shaped(statement["predicate"], "negative report")
    shaped(shaped(predicate["log"], "log")["entry"], "entry")
    request, about = predicate["request"], predicate["about"]
    newest = statement["predicateType"] == NEGATIVE_TYPES[0]
    if request is not None and check_request(request, "open request", newest)["id"] != about:
        refuse("the report is about another request than the one it shows")
    findings = [shaped(finding, "finding") for finding in predicate["findings"]]
    for finding in findings:
        check_verdict(finding)
    if all(is_success(finding) for finding in findings):
        refuse("the report calls nothing a failure")
    said = canonical_json({"request": request, "findings": findings}).encode()
    wanted = {"name": about, "digest": {"sha256": hashlib.sha256(said).hexdigest()}}
    if subjects(statement) != [wanted]:
        refuse("the subject is not what the report says")
    return statement


def check_verdict(of: Object) -> None:
    """That the verdict of a model or finding is its audit's."""
    if of["verdict"] != (of["audit"]["judgement"]["verdict"] if of["audit"] else "not audited"):
        refuse("a verdict is not that of its audit")


def is_success(finding: Object) -> bool:
    return finding["state"] in ("published", "purged") and finding["verdict"] in ("pass", "not audited")


def subjects(statement: Object) -> list[Object]:
    return [shaped(subject, "subject") for subject in statement["subject"]]


def id_tags(samples: Object) -> list[bytes]:
    if samples["scheme"] != "hmac-sha256-128":
        refuse("the ids are committed to by an unknown scheme")
    tags = unbase64(samples["tags"])
    return [tags[at : at + 16] for at in range(0, len(tags), 16)]


def check_membership(certificate: Certificate, salt: bytes, ids: Sequence[str]) -> str:
    """That every one of the ids is among those of the request. The answer repeats none of them."""
    tags = set(id_tags(certificate.predicate["samples"]))
    mine = [hmac.new(salt, b"lethe sample id v1\0" + i.encode(), hashlib.sha256).digest()[:16] for i in ids]
    found = sum(tag in tags for tag in mine)
    if not ids or found < len(ids):
        refuse(f"{found} of the {len(ids)} ids you gave belong to this request")
    return f"all {len(ids)} ids you gave are among its {len(tags)}"


# -- the log ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Head:
    origin: str
    size: int
    root: bytes


def open_head(note: str, trusted: Sequence[TrustedKey], at: datetime | None) -> Head:
    """A signed tree head. Signatures of unknown keys (witnesses, rotated keys) are passed over, as C2SP has it.

    A head bears no date: `at` is when it must have been signed, None for one that its holder kept.
    """
    text, gap, lines = note.rpartition("\n\n")
    text += "\n"
    found = re.fullmatch(r"([^\s+]+)\n(0|[1-9]\d{0,17})\n(\S{44})\n", text)
    if not gap or not found or not lines.endswith("\n") or len(note) > 2**16:
        refuse("this is not a signed tree head")
    origin = found[1]
    known = {hashlib.sha256(f"{origin}\n\x01".encode() + key.raw).digest()[:4]: key for key in trusted}
    checked = 0
    for line in lines.removesuffix("\n").split("\n"):
        dash, name, signature = line.split(" ")
        data = unbase64(signature)
        if dash == "\N{EM DASH}" and name == origin and data[:4] in known:
            known[data[:4]].check(data[4:], text.encode(), at)
            checked += 1
    if not checked:
        refuse("the head is not signed by a key that you trust")
    return Head(origin, int(found[2]), unbase64(found[3]))


def check_witness(note: str, verifier: str) -> str:
    """That the head is countersigned by a witness (C2SP tlog-cosignature), named as `NAME+HASH+KEY`."""
    name, _, rest = verifier.partition("+")
    raw = unbase64(rest.partition("+")[2])
    if raw[:1] != b"\x04" or len(raw) != 33:
        refuse("this is not the key of a witness, NAME+HASH+KEY")
    key_id = hashlib.sha256(name.encode() + b"\n" + raw).digest()[:4]
    text, _, lines = note.rpartition("\n\n")
    for line in filter(None, lines.split("\n")):
        dash, own, signature = line.split(" ")
        data = unbase64(signature)
        if dash == "\N{EM DASH}" and own == name and data[:4] == key_id:
            stamp = int.from_bytes(data[4:12], "big")
            signed = f"cosignature/v1\ntime {stamp}\n{text}\n".encode()
            TrustedKey(Ed25519PublicKey.from_public_bytes(raw[1:])).check(data[12:], signed, None)
            return f"countersigned by {name} on {datetime.fromtimestamp(stamp, UTC):%Y-%m-%d}"
    refuse(f"{name} has not countersigned this head")


def _inner(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _left_size(size: int) -> int:
    """RFC 9162, 2.1.1: the largest power of two smaller than the size."""
    half = 1
    while half * 2 < size:
        half *= 2
    return half


def root_by_inclusion(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """The root that the path gives, taken apart from the root down."""
    if size == 1:
        return leaf if not path else refuse("the inclusion proof is too long")
    if not path:
        refuse("the inclusion proof is too short")
    half, sibling, rest = _left_size(size), path[-1], path[:-1]
    if index < half:
        return _inner(root_by_inclusion(leaf, index, half, rest), sibling)
    return _inner(sibling, root_by_inclusion(leaf, index - half, size - half, rest))


def roots_by_consistency(old: int, new: int, path: list[bytes], old_root: bytes) -> tuple[bytes, bytes]:
    """The roots of both sizes that the path gives, where the part shared from the left edge has `old_root`."""

    def both(old: int, new: int, path: list[bytes], whole: bool) -> tuple[bytes, bytes]:
        if old == new and whole:
            return (old_root, old_root) if not path else refuse("the consistency proof is too long")
        if not path:
            refuse("the consistency proof is too short")
        if old == new:
            return (path[0], path[0]) if len(path) == 1 else refuse("the consistency proof is too long")
        half, sibling, rest = _left_size(new), path[-1], path[:-1]
        if old <= half:
            was, now = both(old, half, rest, whole)
            return was, _inner(now, sibling)
        was, now = both(old - half, new - half, rest, False)
        return _inner(sibling, was), _inner(sibling, now)

    return both(old, new, path, True)


def check_consistency(one: Head, two: Head, proof: Any) -> str:
    """That the larger of two heads of one log extends the smaller."""
    if one.origin != two.origin:
        refuse("the heads are of different logs")
    old, new = sorted((one, two), key=lambda head: head.size)
    if old.size == new.size:
        return "the same tree" if old.root == new.root else refuse("two roots for one size: the log was forked")
    if old.size == 0:
        return "every tree extends the empty one"
    if not isinstance(proof, list):
        refuse(f"the heads have {old.size} and {new.size} leaves: give the proof between them with --consistency")
    roots = roots_by_consistency(old.size, new.size, [unhex(h) for h in proof], old.root)
    if roots != (old.root, new.root):
        refuse("the larger tree does not extend the smaller: history was changed")
    return f"the tree of {new.size} leaves extends that of {old.size}"


def check_log(certificate: Certificate, trusted: Sequence[TrustedKey], kind: str = "certificate.sealed") -> Head:
    """That the log's leaf holds this statement, that the leaf is in the tree, and that the tree is signed."""
    log = certificate.predicate["log"]
    without = certificate.statement | {"predicate": certificate.predicate | {"log": None}}
    digest = "sha256:" + hashlib.sha256(canonical_json(without).encode()).hexdigest()
    entry = log["entry"]
    if entry["kind"] != kind or entry["data"] != {"statement": digest}:
        refuse("the log's entry is not of this statement")
    if entry["object"] != certificate.about:
        refuse("the log's entry is of another request")
    return check_entry(log, trusted, certificate.issued_at)


def check_entry(log: Object, trusted: Sequence[TrustedKey], at: datetime) -> Head:
    """That the entry is in the tree of the signed head."""
    head = open_head(log["head"], trusted, at)
    if (head.size, head.root.hex()) != (log["tree_size"], log["root"]):
        refuse("the signed head is of another tree")
    if not 0 <= log["leaf_index"] < head.size:
        refuse("the tree has no such leaf")
    leaf = hashlib.sha256(b"\0" + canonical_json(log["entry"]).encode()).digest()
    path = [unhex(sibling) for sibling in log["inclusion_proof"]]
    if root_by_inclusion(leaf, log["leaf_index"], head.size, path) != head.root:
        refuse("the inclusion proof does not lead to the signed root")
    return head


# -- all of it -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """`verified`: True, False, or None if the verifier was not given the file that the check needs."""

    name: str
    verified: bool | None
    detail: str


@dataclass(frozen=True)
class Evidence:
    """What an auditor has beside the certificate; everything is optional.

    membership: {"salt": hex, "ids": [...]}. consistency: hashes in hex. previous: superseded certificates, newest
    first.
    """

    checkpoints: Sequence[Path] = ()
    earlier_head: str | None = None
    consistency: Any = None
    membership: Any = None
    previous: Sequence[bytes] = ()
    witnesses: Sequence[str] = ()


@dataclass
class Report:
    """What is verified, what the certificate says, what neither proves, and which forgetting is not certified.

    revoked: since when the newest certificate of a case file does not count any more.
    """

    checks: list[Check] = field(default_factory=list)
    says: list[str] = field(default_factory=list)
    not_proved: list[str] = field(default_factory=list)
    of: str = "certificate"
    uncertified: list[str] = field(default_factory=list)
    revoked: str | None = None

    @property
    def verified(self) -> bool:
        return all(check.verified is not False for check in self.checks)

    def check(self, name: str, work: Callable[[], str | None]) -> None:
        """`work` returns what it found, or None where it adds its checks itself; what it raises is its fault."""
        try:
            if (found := work()) is not None:
                self.checks.append(Check(name, True, found))
        except RefusedError as error:
            self.checks.append(Check(name, False, str(error)))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, OSError) as error:
            self.checks.append(Check(name, False, f"cannot be read ({type(error).__name__})"))

    def unknown(self, name: str, needs: str) -> None:
        self.checks.append(Check(name, None, f"give {needs}"))


REVOKED = "certificate.revoked"
SEALED_AS = {False: "certificate.sealed", True: "negative-report.sealed"}


def check_either(value: Any) -> Object:
    """A certificate, or a negative report."""
    negative = isinstance(value, dict) and value.get("predicateType") in NEGATIVE_TYPES
    return check_negative(value) if negative else check_statement(value)


def verify(envelope: bytes, trusted: Sequence[TrustedKey], evidence: Evidence | None = None) -> Report:
    """Check a certificate or a negative report, and what the auditor has beside it. Bad input raises nothing: the
    report has the fault."""
    given, report, opened = evidence or Evidence(), Report(), []

    def signature() -> str:
        found = open_signed(envelope, trusted, check_either)
        report.says, report.not_proved = summary(found), limits(found)
        report.of, report.uncertified = "negative report" if found.is_negative else report.of, uncertified(found)
        opened.append(found)
        return f"by {found.key.id}, over a statement of the right shape"

    report.check("signature", signature)
    if not opened:
        return report
    certificate = opened[0]
    heads: list[Head] = []

    def log() -> str:
        heads.append(check_log(certificate, trusted, SEALED_AS[certificate.is_negative]))
        index = certificate.predicate["log"]["leaf_index"]
        return f"leaf {index} of the signed tree of {heads[0].size} leaves ({heads[0].origin}) is this statement"

    report.check("transparency log", log)
    if not certificate.is_negative:
        _check_files(report, certificate, given.checkpoints)
    if given.earlier_head is None:
        report.unknown("same history", "--earlier-head, a signed head that you kept")
    elif heads:
        kept = given.earlier_head
        report.check(
            "same history",
            lambda: check_consistency(open_head(kept, trusted, None), heads[0], given.consistency),
        )
    if certificate.is_negative:
        return report
    if given.membership is None:
        report.unknown("sample ids", "--membership, a file with the salt and ids")
    else:
        held = given.membership
        report.check("sample ids", lambda: check_membership(certificate, unhex(held["salt"]), held["ids"]))
    report.check("supersession", lambda: check_chain(certificate, given.previous, trusted))
    return report


def _check_files(report: Report, certificate: Certificate, files: Sequence[Path]) -> None:
    found: dict[str, Path] = {}
    wanted = {subject["digest"]["sha256"]: subject["name"] for subject in subjects(certificate.statement)}

    def belongs(path: Path) -> str:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest not in wanted:
            refuse("the file's digest is not that of any subject of the certificate")
        found[digest] = path
        return f"is {wanted[digest]}, sha256 {digest}"

    for path in files:
        report.check(f"file {path.name}", partial(belongs, path))
    for digest, name in wanted.items():
        if digest not in found:
            report.unknown(name, f"--checkpoint, the file with sha256 {digest}")


def check_chain(certificate: Certificate, previous: Sequence[bytes], trusted: Sequence[TrustedKey]) -> str:
    """That each certificate given is the one that the newer one names as superseded."""
    newer = certificate
    for data in previous:
        older = open_envelope(data, trusted)
        check_log(older, trusted)
        if newer.predicate["supersedes"] != older.digest:
            refuse("a certificate given as superseded is not the one that is named")
        if older.predicate["request"]["id"] != newer.predicate["request"]["id"] or older.issued_at > newer.issued_at:
            refuse("a superseded certificate is of another request, or of a later time")
        if older.predicate["log"]["tree_size"] >= newer.predicate["log"]["tree_size"]:
            refuse("a superseded certificate is in a log as long or longer: the log was forked")
        newer = older
    if newer.predicate["supersedes"] is None:
        return f"the chain is whole, with {len(previous)} superseded before this one"
    return f"supersedes {newer.predicate['supersedes']}, which was not given (--previous)"


# -- case files ------------------------------------------------------------------------------------


def read_case(data: bytes) -> dict[str, bytes]:
    """The parts of a case file by name. Refused: parts that come twice, odd names, and more than a case can have."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            names = [info.filename for info in infos]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                refuse(f"{', '.join(twice)}: this part is in the file twice")
            if len(infos) > MAX_PARTS or sum(info.file_size for info in infos) > MAX_CASE_BYTES:
                refuse("the file has more parts, or larger ones, than a case file")
            if odd := [name for name in names if name.startswith("/") or ".." in name.split("/") or name.endswith("/")]:
                refuse(f"{len(odd)} names of parts are no names of files")
            if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in infos):
                refuse("a part is packed in a way that no case file has")  # each way has errors of its own
            return {info.filename: archive.read(info) for info in infos}
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, RuntimeError):
        refuse("this is not a zip, or not all of it")


def check_manifest(value: Any) -> Object:
    statement = shaped(value, "statement")
    if statement["_type"] != STATEMENT_TYPE or statement["predicateType"] not in CASE_TYPES:
        refuse("the manifest is a statement of another type")
    if statement["predicateType"] == CASE_TYPES[0]:
        predicate = shaped(statement["predicate"], "case")
        for each in predicate["certificates"]:
            moment(shaped(each, "status")["since"])
        newest = predicate["certificates"][0]["digest"] if predicate["certificates"] else None
        if newest != predicate["certificate"]:
            refuse("the manifest does not say how its certificate stands")
    else:
        shaped(statement["predicate"], "case of version 1")
    names = [subject["name"] for subject in subjects(statement)]
    if len(set(names)) != len(names):
        refuse("the manifest names a part twice")
    if any(not isinstance(subject["digest"].get("sha256"), str) for subject in subjects(statement)):
        refuse("the manifest names a part without its SHA-256")
    return statement


def check_decision(value: Any) -> Object:
    statement = shaped(value, "statement")
    if statement["_type"] != STATEMENT_TYPE or statement["predicateType"] not in DECISION_TYPES:
        refuse("the record is a statement of another type")
    predicate = shaped(statement["predicate"], "decision")
    entry = shaped(shaped(predicate["log"], "log")["entry"], "entry")
    digest = hashlib.sha256(canonical_json(entry).encode()).hexdigest()
    if [subject["digest"]["sha256"] for subject in subjects(statement)] != [digest]:
        refuse("the record is not of its entry in the log")
    if entry["object"] != predicate["request"]["id"]:
        refuse("the record's entry in the log is of another request")
    return statement


def verify_case(data: bytes, trusted: Sequence[TrustedKey], evidence: Evidence | None = None) -> Report:
    """Check a case file: its signed manifest, every part against it, and what is signed within. The report names the
    part that is wrong. Without `trusted` the file's own keys count, and the report says that they are not checked.
    Bad input raises nothing, as in `verify`."""
    report = Report(of="case file")
    report.check("case file", lambda: _check_case(report, data, trusted, evidence or Evidence()))
    return report


def _check_case(report: Report, data: bytes, trusted: Sequence[TrustedKey], given: Evidence) -> None:
    parts = dict[str, bytes]()

    def unpacked() -> str:
        parts.update(read_case(data))
        return f"{len(parts)} parts, none of them twice"

    report.check("zip", unpacked)
    if not report.verified:
        return
    keys = list(trusted)

    def own_keys() -> str:
        keys.extend(read_trust(_part(parts, TRUST)))
        return f"{len(keys)} in the file itself"

    if not keys:
        report.check(TRUST, own_keys)
        report.unknown("keys", "--trust, the public keys that you got over another way than this file")
    opened: list[Certificate] = []

    def manifest() -> str:
        opened.append(open_signed(_part(parts, MANIFEST), keys, check_manifest))
        return f"of request {opened[0].predicate['request']}, by {opened[0].key.id}"

    report.check(MANIFEST, manifest)
    if not opened:
        return
    case = opened[0]
    _check_parts(report, case, parts)
    report.says = [f"{case.predicate['wording']} Issued {case.predicate['issued_at']}.", *standings(case.predicate)]
    for newest in case.predicate.get("certificates", [])[:1]:
        report.revoked = newest["since"] if newest["status"] == "revoked" else None
    report.not_proved = [*map(str, case.predicate["not_proved"])]
    if case.predicate["certificate"] is not None and CERTIFICATE in parts:
        _check_certificate(report, case, parts, keys, given)
    if NEGATIVE in parts:
        _check_negative(report, case, parts[NEGATIVE], keys)
    for name in given.witnesses:
        report.check(f"witness {name.partition('+')[0]}", partial(_is_witnessed, parts, name, keys))
    for name in sorted(name for name in parts if re.fullmatch(r"decision-\d+\.json", name)):
        report.check(name, partial(_check_record, report, case, parts[name], keys))


def _part(parts: dict[str, bytes], name: str) -> bytes:
    return parts[name] if name in parts else refuse(f"{name} is missing")


def _check_parts(report: Report, case: Certificate, parts: dict[str, bytes]) -> None:
    """One check for each part that the manifest names, and for each that it does not."""
    wanted = {subject["name"]: subject["digest"]["sha256"] for subject in subjects(case.statement)}
    found = {name: hashlib.sha256(part).hexdigest() for name, part in parts.items() if name != MANIFEST}
    right = sum(found.get(name) == digest for name, digest in wanted.items())
    report.check("parts", lambda: f"{right} of {len(wanted)} are as they were signed")
    for name, digest in wanted.items():
        if name not in found:
            moved = [other for other, value in found.items() if value == digest and other not in wanted]
            words = f"is left out; {moved[0]} has its content: it was renamed" if moved else "is left out of the file"
            report.checks.append(Check(name, False, words))
        elif found[name] != digest:
            other = [known for known, value in wanted.items() if value == found[name]]
            words = f"has the content of {other[0]}" if other else "is not the part that was signed, or of another case"
            report.checks.append(Check(name, False, words))
    for name in found.keys() - wanted.keys():
        report.checks.append(Check(name, False, "is no part of this case: the manifest does not name it"))


def _check_certificate(
    report: Report, case: Certificate, parts: dict[str, bytes], keys: Sequence[TrustedKey], given: Evidence
) -> None:
    previous = sorted((name for name in parts if re.fullmatch(r"superseded-\d+\.json", name)), key=_number)
    inner = verify(
        parts[CERTIFICATE],
        keys,
        Evidence(
            given.checkpoints,
            given.earlier_head,
            given.consistency,
            given.membership,
            [parts[name] for name in previous],
        ),
    )
    report.checks += [Check(f"{CERTIFICATE}, {each.name}", each.verified, each.detail) for each in inner.checks]
    report.says, report.not_proved = [*report.says, *inner.says], [*report.not_proved, *inner.not_proved]
    report.uncertified = inner.uncertified
    if not inner.verified or not inner.says:
        return
    certificate = open_envelope(parts[CERTIFICATE], keys)

    def same_case() -> str:
        if certificate.digest != case.predicate["certificate"]:
            refuse("it is not the certificate that the manifest names")
        if certificate.predicate["request"]["id"] != case.predicate["request"]:
            refuse("it is of another request than the manifest: of another case")
        return "is of this request"

    report.check(f"{CERTIFICATE}, case", same_case)
    for model in certificate.predicate["models"]:
        if model["audit"]:
            name = f"audit-{model['model']}.json"
            report.check(f"{name}, digest", partial(_is_report, parts, name, model["audit"].get("report")))
    if "head.txt" in parts and "proof.json" in parts:
        report.check("head.txt, history", lambda: _continues(certificate, parts, keys))


def _check_negative(report: Report, case: Certificate, data: bytes, keys: Sequence[TrustedKey]) -> None:
    """A part of the case that is a negative report, of this request."""
    inner = verify(data, keys)
    report.uncertified = report.uncertified or inner.uncertified
    report.checks += [Check(f"{NEGATIVE}, {each.name}", each.verified, each.detail) for each in inner.checks]
    report.says, report.not_proved = [*report.says, *inner.says], [*report.not_proved, *inner.not_proved]

    def same_case() -> str:
        found = open_signed(data, keys, check_negative)
        return "is of this request" if found.about == case.predicate["request"] else refuse("it is of another request")

    report.check(f"{NEGATIVE}, case", same_case)


def _is_report(parts: dict[str, bytes], name: str, digest: Any) -> str:
    if "sha256:" + hashlib.sha256(_part(parts, name)).hexdigest() != digest:
        refuse("it is not the audit report that the certificate names")
    return "is the audit report that the certificate names"


def _continues(certificate: Certificate, parts: dict[str, bytes], keys: Sequence[TrustedKey]) -> str:
    newer = open_head(parts["head.txt"].decode(), keys, None)
    older = open_head(certificate.predicate["log"]["head"], keys, certificate.issued_at)
    return check_consistency(older, newer, parse_json(parts["proof.json"])["hashes"])


def _check_record(report: Report, case: Certificate, data: bytes, keys: Sequence[TrustedKey]) -> str:
    record = open_signed(data, keys, check_decision)
    log, request = record.predicate["log"], record.predicate["request"]
    head = check_entry(log, keys, record.issued_at)
    if request["id"] != case.predicate["request"]:
        refuse("it is of another request than the manifest: of another case")
    entry = log["entry"]
    if entry["kind"] == REVOKED:
        known = {each["digest"]: each["status"] for each in case.predicate.get("certificates", [])}
        if known.get(entry["data"]["certificate"], "revoked") != "revoked":
            refuse(f"it revokes a certificate that the manifest calls {known[entry['data']['certificate']]}")
    first = f", proposed by {entry['data']['proposed_by']}" if entry["data"].get("proposed_by") else ""
    report.says.append(
        f"request {request['id']}, received {request['received_at']}: on {entry['at']}, by "
        f"{entry['data'].get('actor', 'unknown')}{first}: {decided(entry)}"
    )
    kind = str(entry["kind"]).partition(".")[2]
    return f"{kind}, leaf {log['leaf_index']} of the signed tree of {head.size} leaves"


def decided(entry: Object) -> str:
    """What an entry of the log says was decided: as it was then, whatever came later."""
    kind, data = str(entry["kind"]), entry["data"]
    if kind == "request.refused":
        were, late = "was" if data.get("samples") == 1 else "were", ", LATE" if data.get("late") else ""
        return f"{samples_of(data)} {were} refused{ground_of(data)}{late}"
    if kind == "request.given-up":
        return f"{samples_of(data)} went over to another request"
    if kind == REVOKED:
        return f"the certificate {data['certificate']} was REVOKED"
    if kind == "request.remains-kept":
        return f"what is left of it was given time until {data['until']}"
    moved = f": due {data['due_at']} instead of {data['was_due_at']}" if "was_due_at" in data else ""
    return f"it was {kind.partition('.')[2]}{moved}"


def standings(predicate: Object) -> list[str]:
    """How the request and its certificates stood when the case file was made."""
    lines = (
        [f"at that time the request {predicate['request']} was {predicate['status']}"] if "status" in predicate else []
    )
    for each in predicate.get("certificates", []):
        words = str(each["status"])
        if words == "superseded":
            words += f" by {each['superseded_by']}"
        elif words == "contested":
            words = f"CONTESTED by {', '.join(map(str, each['contested_by']))}"
        elif words == "revoked":
            words = "REVOKED"
        lines.append(f"at that time the certificate {each['digest']} was {words}, since {each['since']}")
    return lines


def _is_witnessed(parts: dict[str, bytes], verifier: str, keys: Sequence[TrustedKey]) -> str:
    note = _part(parts, "witnessed.txt").decode()
    head = open_head(note, keys, None)
    return f"{check_witness(note, verifier)}, {head.size} leaves"


def _number(name: str) -> int:
    return int(re.sub(r"\D", "", name))


def summary(certificate: Certificate) -> list[str]:
    """What the statement says, in lines for a person."""
    predicate = certificate.predicate
    if certificate.is_negative:
        return negative_summary(predicate)
    request = predicate["request"]
    due = moment(request["due_at"])
    late = "in time" if moment(request["fulfilled_at"]) <= due else "LATE"
    left = [moment(r["due_at"]) for r in predicate["receipts"] if not r["done_at"] and r["due_at"] and is_remnant(r)]
    if left and max(left) > due:
        late += f", but NOT COMPLETE before {max(left):%Y-%m-%d}, after the due date"
    extended = f" (extended on {request['extended_at']})" if request["extended_at"] else ""
    lines = [
        f"{predicate['wording']} Issued {predicate['issued_at']}.",
        f"request {request['id']} ({request['decision']}, {request['jurisdiction']}: {request['rule']}): "
        f"received {request['received_at']}, due {request['due_at']}{extended}, "
        f"fulfilled {request['fulfilled_at']}, {late}",
        *legal_life(request),
        f"samples: {predicate['samples']['count']} in dataset {predicate['dataset']['id']}",
    ]
    for model in predicate["models"]:
        reason = f": {model['audit']['judgement']['reason']}" if model["audit"] else ""
        name = f"{model['model']} version {model['version']}"
        lines.append(f"{name}, by {model['method']}: the audit's verdict is {model['verdict'].upper()}{reason}")
    for receipt in predicate["receipts"]:
        when = f"done {receipt['done_at']}" if receipt["done_at"] else f"PENDING until {receipt['due_at'] or 'unknown'}"
        lines.append(f"purge of {receipt['subject']} ({receipt['detail']}): {when}")
    return lines


def legal_life(request: Object) -> list[str]:
    """What a request of the newest form says besides its dates. Free words of earlier forms are not repeated."""
    if "decided" not in request:
        return []
    named = f"its legal ground is {request['ground']}" if request["ground"] else "no legal ground is named"
    lines = [f"entered {request['posted_at']}; {named}"]
    if request["complaint_about"]:
        lines.append(f"it is a complaint about request {request['complaint_about']}")
    identity = request["identity"]
    if identity["status"] != "not-needed":
        lines.append(
            f"the identity is {identity['status']}: asked {identity['asked_at'] or 'never'}, waited for until "
            f"{identity['until'] or 'no date'}, ended {identity['ended_at'] or 'not yet'}"
        )
    lines += [f"REFUSED: {samples_of(part)}{ground_of(part)}" for part in request["refused"]]
    for step in request["decided"]:
        first = f", proposed by {step['proposed_by']}" if step["proposed_by"] else ""
        lines.append(f"{step['kind'].partition('.')[2]} {step['at']} by {step['by']}{first}")
    return lines


def samples_of(data: Object) -> str:
    """How many samples a refusal is about, where it says so."""
    count = data.get("samples")
    return "samples of it" if count is None else "1 sample of it" if count == 1 else f"{count} samples of it"


def ground_of(data: Object) -> str:
    return f", {data['ground']}" if data.get("ground") else ""


def negative_summary(predicate: Object) -> list[str]:
    request = predicate["request"]
    lines = [f"NO DELETION IS CERTIFIED. This is a negative report of {predicate['issued_at']}, and no certificate."]
    if request is None:
        lines.append(f"audit {predicate['about']}:")
    else:
        fulfilled = f"erased {request['fulfilled_at']}" if request["fulfilled_at"] else "NOT FULFILLED"
        lines.append(
            f"request {request['id']} ({request['decision']}, {request['jurisdiction']}: {request['rule']}): "
            f"received {request['received_at']}, due {request['due_at']}, {fulfilled}"
        )
        lines += legal_life(request)
    for finding in predicate["findings"]:
        name = finding["model"] or "the samples"
        if finding["version"] is not None:
            name += f" version {finding['version']}"
        words = f"{finding['state']}, the audit's verdict is {finding['verdict'].upper()}"
        if finding["state"] == "attention":
            words = f"NOTHING WAS PUBLISHED, a person must decide; the audit's verdict is {finding['verdict'].upper()}"
        elif finding["state"] == "not-erased":
            words = "NOT ERASED"
        lines.append(f"{name}: {words}" + (f": {finding['why']}" if finding["why"] else ""))
    return lines


def uncertified(certificate: Certificate) -> list[str]:
    """Of which models the statement does not certify that they forgot the samples, and why; those alone."""
    if certificate.is_negative:
        return [
            str(finding["model"] or "the samples")
            for finding in certificate.predicate["findings"]
            if not is_success(finding)
        ]
    return [
        f"{model['model']} version {model['version']} (the audit's verdict is {model['verdict']})"
        for model in certificate.predicate["models"]
        if model["verdict"] not in ("pass", "not audited")
    ]


def is_remnant(receipt: Object) -> bool:
    """Whether it is of something that the service holds, as opposed to backups."""
    return receipt["subject"] in ("superseded-checkpoint", "reference-pool")


def limits(certificate: Certificate) -> list[str]:
    """What the statement says it does not prove, and what its audits do not show."""
    measured = certificate.predicate["findings" if certificate.is_negative else "models"]
    audits = [each["audit"] or {} for each in measured]
    shown = [f"the audit does not show: {line}" for audit in audits for line in audit.get("not_shown") or []]
    return [*map(str, certificate.predicate["not_proved"]), *dict.fromkeys(shown)]


# -- command line ----------------------------------------------------------------------------------


def read(path: Path) -> bytes:
    return path.read_bytes() if path.stat().st_size <= MAX_BYTES else refuse(f"{path.name} is too large")


def read_key(pem: bytes) -> Ed25519PublicKey:
    key = serialization.load_pem_public_key(pem)
    return key if isinstance(key, Ed25519PublicKey) else refuse("a trusted key is not an Ed25519 public key")


def read_trust(data: bytes) -> list[TrustedKey]:
    """A trust file: {"keys": [{"id", "public_key", "not_before", "not_after"}]}."""
    document, keys = parse_json(data), []
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        refuse("this is not a trust file, which is an object with a list of `keys`")
    for item in document["keys"]:
        start, end = (moment(item[name]) if item[name] else None for name in ("not_before", "not_after"))
        key = TrustedKey(read_key(item["public_key"].encode()), start, end)
        keys.append(key if key.id == item["id"] else refuse("the trust file gives a key another id"))
    return keys


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lethe.verify", description="Verify a certificate, a negative report or a case file offline."
    )
    parser.add_argument(
        "certificate", type=Path, help="the certificate or negative report, a JSON file, or a case file, a zip"
    )
    parser.add_argument("--key", type=Path, action="append", default=[], help="a public key (PEM) that you trust")
    parser.add_argument("--trust", type=Path, help="a file of public keys with their validity")
    parser.add_argument("--checkpoint", type=Path, action="append", default=[], help="a checkpoint file to identify")
    parser.add_argument("--earlier-head", type=Path, help="a signed head of the same log that you kept")
    parser.add_argument("--consistency", type=Path, help="the log's proof between that head and the certificate's")
    parser.add_argument("--membership", type=Path, help='{"salt": hex, "ids": [...]}: ids to look for')
    parser.add_argument("--previous", type=Path, action="append", default=[], help="superseded ones, newest first")
    parser.add_argument("--witness", action="append", default=[], help="NAME+HASH+KEY that must have countersigned")
    parser.add_argument(
        "--online", metavar="URL", help="ask this service how the certificate stands now; no key is needed"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser


def _files(options: argparse.Namespace) -> list[Path]:
    """Every file that the command line names."""
    one = [options.certificate, options.trust, options.earlier_head, options.consistency, options.membership]
    return [path for path in [*one, *options.key, *options.checkpoint, *options.previous] if path is not None]


def _evidence(options: argparse.Namespace) -> Evidence:
    return Evidence(
        checkpoints=options.checkpoint,
        earlier_head=read(options.earlier_head).decode() if options.earlier_head else None,
        consistency=parse_json(read(options.consistency))["hashes"] if options.consistency else None,
        membership=parse_json(read(options.membership)) if options.membership else None,
        previous=[read(path) for path in options.previous],
        witnesses=options.witness,
    )


def certificate_of(data: bytes, *, case: bool) -> str:
    """The digest of the certificate in a file that was verified; empty for a negative report, or a case without one."""
    envelope = parse_json(read_case(data)[MANIFEST] if case else data)
    payload = unbase64(envelope["payload"])
    if not case and parse_json(payload)["predicateType"] in NEGATIVE_TYPES:
        return ""
    if not case:
        return "sha256:" + hashlib.sha256(payload).hexdigest()
    return str(parse_json(payload)["predicate"]["certificate"] or "")


def asked(url: str, digest: str) -> str:
    """How the service at `url` says that the certificate stands now."""
    if not url.startswith(("https://", "http://")):
        refuse("give the address of the service as https://…")
    address = f"{url.rstrip('/')}/v1/certificates/{digest}/status"
    try:
        with urllib.request.urlopen(address, timeout=ONLINE_SECONDS) as reply:  # noqa: S310 (http, by the line above)
            document = parse_json(reply.read(ONLINE_BYTES))
    except urllib.error.HTTPError as error:
        refuse("the service knows no such certificate" if error.code == 404 else f"the service answered {error.code}")
    except OSError as error:
        refuse(f"the service cannot be asked: {getattr(error, 'reason', error)}")
    if document["digest"] != digest:
        refuse("the service answered for another certificate")
    if document["status"] == "revoked":
        refuse(f"REVOKED on {document['since']}: do not rely on it")
    return f"{document['status']}, since {document['since']}"


def show(report: Report) -> str:
    """The report for a person; control characters of a certificate do not reach the terminal."""
    marks = {True: "verified", False: "NOT VERIFIED", None: "not checked"}
    lines = [f"{marks[check.verified]:<12} {check.name}: {check.detail}" for check in report.checks]
    for title, part in (("It says:", report.says), ("Not proved:", report.not_proved)):
        if part:
            lines += ["", title, *(f"  - {line}" for line in part)]
    verdict = f"The {report.of} is verified." if report.verified else f"The {report.of} is NOT VERIFIED."
    if report.verified and report.uncertified:
        verdict += f" It does NOT certify forgetting: {', '.join(report.uncertified)}."
    if report.verified and report.revoked:
        verdict += f" Its certificate was REVOKED on {report.revoked}: do not rely on it."
    clean = ["".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line) for line in lines]
    return "\n".join([*clean, "", verdict])


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 if everything that could be checked is verified, 1 if something is not, 2 for wrong usage."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal has every letter of a certificate
    options = arguments().parse_args(argv)
    case = zipfile.is_zipfile(options.certificate) or options.certificate.suffix == ".zip"
    if not options.key and not options.trust and not case:
        arguments().error("give a public key that you trust: --key or --trust")
    for path in _files(options):
        try:
            path.open("rb").close()
        except OSError as error:  # says nothing about the certificate
            arguments().error(f"{path}: {error.strerror}")
    try:
        trusted = [TrustedKey(read_key(read(path))) for path in options.key]
        trusted += read_trust(read(options.trust)) if options.trust else []
        check = verify_case if case else verify
        report = check(read(options.certificate), trusted, _evidence(options))
    except (ValueError, KeyError, TypeError, AttributeError, OSError, UnsupportedAlgorithm) as error:
        report = Report([Check("input", False, str(error) or type(error).__name__)], of="file")
    if options.online and report.verified:
        digest = certificate_of(read(options.certificate), case=case)
        if digest:
            report.check("status now", partial(asked, options.online, digest))
        else:
            report.unknown("status now", "a file with a certificate: of others there is no status")
    document = asdict(report) | {"verified": report.verified, "verified_at": datetime.now(UTC).isoformat()}
    sys.stdout.write((json.dumps(document, indent=2) if options.json else show(report)) + "\n")
    return 0 if report.verified else 1


if __name__ == "__main__":
    sys.exit(main())
