"""What a certificate says, what it keeps to itself, and how its facts come out of the database."""

from __future__ import annotations

import base64
import json
import stat
import struct
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app import events
from app.core.config import StartError
from app.core.db import SERVICE
from app.core.tables import AuditRow, Dataset, DeletionRequest, Job, Model, OutcomeRow, Receipt, Tenant, Version
from app.evidence import certificate, legal, signing, transparency_log
from app.evidence.certificate import CertificateFacts, ModelFacts, ReceiptFacts
from app.evidence.legal import Identity, Refusal, RequestFacts, Step
from app.evidence.signing import SigningKey, canonical
from app.evidence.transparency_log import cover, fold, grow, leaf_hash
from lethe.verify import canonical_json

T = datetime.fromisoformat("2026-03-02T09:30")
LOG = "lethe-log/ten_first"
SALT = b"\x07" * 32
IDS = [str(number) for number in range(17, 25)]
KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(b"\x01" * 32))
REPORT = {
    "method": "amun",
    "audit": "rmia",
    "audit_params": {"references": 16},
    "forget_samples": 8,
    "retain_samples": 1200,
    "test_samples": 400,
    "candidate": {"accuracy_test": 0.87, "ft_auc": {"value": 0.515, "interval": {"low": 0.41, "high": 0.62}},
                  "roc_ft": {"fpr": [0, 1], "tpr": [0, 1]}, "confidence": {"forget": [1]}},
    "parent": None,
    "balance": {"random_like": True},
    "judgement": {"verdict": "inconclusive", "reason": "d = +0.015 does not fit inside ±0.05", "margin": 0.05,
                  "null": 0.5, "smallest_margin": 0.17},
    "references": {"models": 16},
    "adversarial": None,
    "not_shown": ["other attacks"],
}  # fmt: skip


def facts(result="sha256:" + "ab" * 32, issued=T + timedelta(days=9), supersedes=None, verdict="inconclusive"):
    audit = certificate.audit_figures(REPORT)
    audit["judgement"] = audit["judgement"] | {"verdict": verdict}
    return CertificateFacts(
        issued_at=issued,
        request=RequestFacts(
            id="del_1",
            received_at=T,
            posted_at=T + timedelta(days=1),
            due_at=T + timedelta(days=31),
            extended_at=None,
            fulfilled_at=T + timedelta(days=8),
            jurisdiction="gdpr",
            rule="GDPR Art. 12(3), one calendar month by Regulation 1182/71",
            ground="17(1)(b)",
            decision="accepted",
            complaint_about=None,
            identity=Identity("confirmed", T + timedelta(days=2), T + timedelta(days=9), T + timedelta(days=2)),
            refused=(Refusal(2, "17(3)(e)"),),
            decided=(
                Step("request.accepted", T + timedelta(days=1), "key_1", None),
                Step("request.refused", T + timedelta(days=3), "key_2", "key_1"),
            ),
        ),
        dataset="dst_1",
        dataset_digest="sha256:" + "cd" * 32,
        tags=certificate.id_tags(SALT, IDS),
        models=(
            ModelFacts(
                model="mod_1",
                version=2,
                base_digest="sha256:" + "01" * 32,
                result_digest=result,
                lineage=({"version": 2, "digest": result, "origin": "unlearned"},),
                method="amun",
                method_params={"epochs": 10, "learning_rate": 0.01},
                remain_access="full",
                seed=7,
                software={"lethe": "0.1.0", "torch": "2.13.0"},
                audit=audit,
            ),
        ),
        receipts=(
            ReceiptFacts("sample-bytes", "the samples' pictures were taken out of the file", None, T, None),
            ReceiptFacts("superseded-checkpoint", "version 1", "mod_1", None, T + timedelta(days=16)),
        ),
        supersedes=supersedes,
    )


def in_log(entries, index, key=KEY, name=LOG):
    """The place of one entry in a log of these entries."""
    nodes = grow({}, 0, [leaf_hash(canonical(entry)) for entry in entries])
    size = len(entries)
    root = fold([nodes[node] for node in cover(0, size)])
    head = transparency_log.Head(size, root, transparency_log.sign_head(key, name, size, root), key.id, T)
    return transparency_log.Proven(
        entries[index], index, transparency_log.roots(transparency_log.inclusion_spans(index, size), nodes), head
    )


def entry_of(given, at="2026-03-11T09:30:00.000000Z"):
    data = {"statement": certificate.binding(certificate.build(given))}
    return {"at": at, "data": data, "kind": certificate.EVENT_KIND, "object": given.request.id}


def others(count, seed=0):
    return [{"at": "", "data": {"n": seed + n}, "kind": "test", "object": f"obj_{n}"} for n in range(count)]


def issue(given, before=4, after=3, key=KEY):
    """Statement and envelope of the facts, logged between some other entries."""
    proven = in_log([*others(before), entry_of(given), *others(after, 100)], before, key)
    statement = certificate.build(replace(given, log=proven))
    return statement, certificate.sign(statement, key)


# -- canonical bytes -------------------------------------------------------------------------------

# RFC 8785, appendix B: bits of a double and how it is written.
NUMBERS = [
    ("0000000000000000", "0"), ("8000000000000000", "0"), ("0000000000000001", "5e-324"),
    ("8000000000000001", "-5e-324"), ("7fefffffffffffff", "1.7976931348623157e+308"),
    ("4340000000000000", "9007199254740992"), ("c340000000000000", "-9007199254740992"),
    ("4430000000000000", "295147905179352830000"), ("44b52d02c7e14af5", "9.999999999999997e+22"),
    ("44b52d02c7e14af6", "1e+23"), ("44b52d02c7e14af7", "1.0000000000000001e+23"),
    ("444b1ae4d6e2ef4e", "999999999999999700000"), ("444b1ae4d6e2ef4f", "999999999999999900000"),
    ("444b1ae4d6e2ef50", "1e+21"), ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"), ("3eb0c6f7a0b5ed8d", "0.000001"),
    ("41b3de4355555553", "333333333.3333332"), ("41b3de4355555557", "333333333.33333343"),
    ("becbf647612f3696", "-0.0000033333333333333333"), ("43143ff3c1cb0959", "1424953923781206.2"),
]  # fmt: skip


@pytest.mark.parametrize("write", [lambda value: canonical(value).decode(), canonical_json], ids=["app", "verifier"])
@pytest.mark.parametrize(("bits", "text"), NUMBERS)
def test_numbers_as_the_rfc_writes_them(write, bits, text):
    assert write(struct.unpack(">d", bytes.fromhex(bits))[0]) == text


def test_both_implementations_write_the_same_bytes():
    random = Random(5)
    for _ in range(20_000):
        value = struct.unpack(">d", random.randbytes(8))[0]
        if value == value and abs(value) != float("inf"):
            assert canonical(value).decode() == canonical_json(value)
            assert float(canonical(value)) == value
    mixed = {"\u20ac": 1, "\r": None, "\ufb33": [True, {}], "1": '\x7f\x1f"\\/\b', "\U0001f600": 0.1, "\xf6": []}
    assert canonical(mixed).decode() == canonical_json(mixed)
    # The order of RFC 8785, section 3.2.3: UTF-16 code units put the emoji before the Hebrew letter.
    assert list(json.loads(canonical(mixed))) == ["\r", "1", "\xf6", "\u20ac", "\U0001f600", "\ufb33"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**53, {1: 2}, b"", {"a": {1, 2}}, "\ud800"])
def test_what_json_cannot_say_is_refused(value):
    with pytest.raises(ValueError):
        canonical(value)


# -- keys ------------------------------------------------------------------------------------------


def test_the_key_is_made_once_and_only_its_owner_can_read_it(tmp_path):
    one, two = signing.load("", tmp_path), signing.load("", tmp_path)
    assert one.id == two.id
    path = tmp_path / "signing-key.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert signing.load(path.read_text(), tmp_path / "elsewhere").id == one.id
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("pem", ["nonsense", KEY.public_pem])
def test_an_unreadable_key_is_refused_without_repeating_it(pem, tmp_path):
    with pytest.raises(StartError, match="no private key as unencrypted PKCS #8 PEM") as caught:
        signing.load(pem, tmp_path)
    assert pem not in str(caught.value)


def test_rotation_ends_the_old_key_after_the_overlap():
    new = SigningKey(Ed25519PrivateKey.from_private_bytes(b"\x02" * 32))
    (first,) = known = signing.rotate([], KEY, T)
    assert (first.id, first.not_before, first.not_after) == (KEY.id, T, None)
    assert signing.rotate(known, KEY, T + timedelta(days=9)) == known
    known = signing.rotate(known, new, T + timedelta(days=10))
    assert [k.not_after for k in known] == [T + timedelta(days=11), None]
    assert signing.rotate(known, KEY, T + timedelta(days=10, hours=23)) == known  # a process not restarted yet
    with pytest.raises(StartError, match="replaced"):
        signing.rotate(known, KEY, T + timedelta(days=11))
    document = signing.trust_document(known)
    assert [k["not_after"] for k in document["keys"]] == ["2026-03-13T09:30:00.000000Z", None]


@pytest.mark.parametrize("name", ["", "a b", "a+b"])
def test_a_note_takes_no_ambiguous_key_name(name):
    with pytest.raises(ValueError):
        signing.sign_note(KEY, name, "text\n")


# -- the statement ---------------------------------------------------------------------------------


def test_the_statement_speaks_of_the_new_checkpoints():
    statement, envelope = issue(facts())
    assert statement["subject"] == [{"name": "mod_1/versions/2", "digest": {"sha256": "ab" * 32}}]
    assert (statement["_type"], statement["predicateType"]) == (
        certificate.STATEMENT_TYPE,
        certificate.PREDICATE_TYPE,
    )
    assert base64.b64decode(envelope["payload"]) == canonical(statement)
    assert envelope["payloadType"] == "application/vnd.in-toto+json"


@pytest.mark.parametrize("verdict", ["pass", "fail", "inconclusive"])
def test_every_verdict_is_certified_as_it_is(verdict):
    (model,) = certificate.build(facts(verdict=verdict))["predicate"]["models"]
    assert model["verdict"] == model["audit"]["judgement"]["verdict"] == verdict
    assert model["audit"]["candidate"]["ft_auc"] == REPORT["candidate"]["ft_auc"]
    assert model["audit"]["judgement"]["margin"] == 0.05
    assert model["audit"]["report"] == certificate.digest_of(REPORT)


def test_a_model_that_nobody_audited_says_so():
    given = facts()
    statement = certificate.build(replace(given, models=(replace(given.models[0], audit=None),)))
    assert statement["predicate"]["models"][0]["verdict"] == "not audited"


def test_it_promises_no_more_than_it_can():
    text = canonical(certificate.build(facts())).decode().lower()
    assert "this procedure ran and these tests gave this" in text
    for word in ("guarantee", "erased from", "proof of forgetting", "proves that"):
        assert word not in text


def test_ids_salt_curves_and_names_of_others_stay_out():
    statement, envelope = issue(facts())
    text = canonical(statement).decode()
    names = {name for name in text.split('"') if name.isalnum()}
    assert names.isdisjoint(IDS)
    assert SALT.hex() not in text
    assert base64.b64encode(SALT).decode() not in text
    assert "roc_ft" not in text
    assert "confidence" not in text
    assert "obj_" not in text  # entries of others in the log
    assert set(envelope) == {"payload", "payloadType", "signatures"}


def test_tags_need_the_salt_and_hide_the_order():
    tags = certificate.id_tags(SALT, IDS)
    assert tags == certificate.id_tags(SALT, IDS[::-1])
    assert len(set(tags)) == len(IDS)
    assert {len(tag) for tag in tags} == {16}
    assert set(tags).isdisjoint(certificate.id_tags(certificate.new_salt(), IDS))


def test_without_a_model_the_dataset_is_the_subject():
    statement = certificate.build(replace(facts(), models=()))
    assert statement["subject"] == [{"name": "dst_1", "digest": {"sha256": "cd" * 32}}]
    with pytest.raises(ValueError, match="needs a result"):
        certificate.build(replace(facts(), models=(), dataset_digest=None))
    with pytest.raises(ValueError, match="fulfilled"):
        certificate.build(replace(facts(), request=replace(facts().request, fulfilled_at=None)))


def test_the_binding_covers_everything_but_the_place_in_the_log():
    plain = certificate.build(facts())
    assert certificate.binding(plain) == certificate.binding(issue(facts())[0])
    assert certificate.binding(plain) != certificate.binding(certificate.build(facts(verdict="pass")))


# -- out of the database ---------------------------------------------------------------------------


def seed_rows(session):
    """One request, fulfilled in one model whose version 2 was audited."""
    given = {"tenant_id": "ten_first", "created_at": T}
    dataset = {"name": "d", "source": "digits", "source_params": {}, "state": "ready"}
    session.add(Dataset(id="dst_1", **given, **dataset, images="sha256:" + "cd" * 32))
    session.flush()
    session.add(
        Model(
            id="mod_1", dataset_id="dst_1", name="m", architecture="small_cnn", architecture_params={},
            recipe="sgd", recipe_params={}, policy={}, current_version=2, **given,
        )
    )  # fmt: skip
    request = DeletionRequest(
        id="del_1", tenant_id="ten_first", dataset_id="dst_1", decision="accepted", jurisdiction="gdpr",
        basis="erasure-request", sample_count=8, positions=b"", rule="one month",
        received_at=T, due_at=T + timedelta(days=31),
    )  # fmt: skip
    session.add(request)
    session.flush()
    session.add(
        Job(
            id="job_1", kind="unlearn", model_id="mod_1", lane="model:mod_1", params={}, seed=7, state="succeeded",
            available_at=T, **given,
        )
    )  # fmt: skip
    session.flush()
    for number, origin, job in ((1, "trained", None), (2, "unlearned", "job_1")):
        session.add(
            Version(
                id=f"ver_{number}", model_id="mod_1", number=number, parent=number - 1 or None, origin=origin,
                state="current", digest=f"sha256:{number:064x}", size=1, trained_on=b"", trained_count=1,
                class_counts=[], metrics={}, job_id=job, **given,
            )
        )  # fmt: skip
    session.add(OutcomeRow(request_id="del_1", model_id="mod_1", state="purged", job_id="job_1", version=2))
    report = REPORT | {"method_params": {"epochs": 10}, "remain_access": "full", "environment": {"lethe": "0.1.0"}}
    session.add(
        AuditRow(
            id="aud_1", model_id="mod_1", job_id="job_1", version=2, verdict="inconclusive", report=report, **given
        )
    )
    session.add(
        Receipt(
            id="rcp_1",
            request_id="del_1",
            subject="sample-bytes",
            detail="gone",
            digest="sha256:" + "99" * 32,
            done_at=T,
        )
    )
    session.flush()
    return request


def test_facts_come_out_of_the_database(database):
    with database.write() as session:
        assert session.get(Tenant, "ten_first")
        request = seed_rows(session)
        waiting = legal.of(session, request)
        request.ground, request.fulfilled_at = "17(1)(a)", T + timedelta(days=8)
        request.refused_count, request.refusal_ground = 3, "17(3)(b)"
        session.flush()
        events.record(session, "ten_first", "request.extended", "del_1", due_at="later")
        found = legal.of(session, request)
        assert (waiting.ground, waiting.fulfilled_at, waiting.refused, waiting.decided) == (None, None, (), ())
        assert (found.ground, found.rule, found.fulfilled_at) == ("17(1)(a)", "one month", T + timedelta(days=8))
        assert (found.posted_at, found.refused) == (T, (Refusal(3, "17(3)(b)"),))
        assert [(step.kind, step.by) for step in found.decided] == [("request.extended", SERVICE)]
        assert "erasure-request" not in str(found), "free words"
        model = certificate.model_facts(session, session.get_one(OutcomeRow, ("del_1", "mod_1")))
        receipts = certificate.receipt_facts([session.get_one(Receipt, "rcp_1")])
    assert (model.base_digest, model.result_digest) == (f"sha256:{1:064x}", f"sha256:{2:064x}")
    assert [step["version"] for step in model.lineage] == [2, 1]
    assert (model.method, model.seed, model.remain_access) == ("amun", 7, "full")
    assert model.audit == certificate.audit_figures(
        REPORT | {"method_params": {"epochs": 10}, "remain_access": "full", "environment": {"lethe": "0.1.0"}}
    )
    assert receipts == (ReceiptFacts("sample-bytes", "gone", None, T, None),)
    assert not any("99" * 32 in str(receipt) for receipt in receipts)


def test_of_two_processes_that_make_the_key_at_once_both_get_the_first(tmp_path, monkeypatch):
    first, late = signing._new_pem(), signing._new_pem()

    def overtaken():
        signing.write_private(tmp_path / "signing-key.pem", first, exclusive=True)
        return late

    monkeypatch.setattr(signing, "_new_pem", overtaken)
    assert signing.load("", tmp_path).id == signing.load(first, tmp_path).id
