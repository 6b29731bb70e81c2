"""The offline verifier: what is untouched is verified, and everything that was touched is refused."""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import Random

import cffi
import cryptography
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.evidence import certificate, signing, transparency_log
from app.evidence.signing import SigningKey
from lethe import verify
from lethe.verify import Evidence, Head, RefusedError, TrustedKey
from tests.app.evidence.test_certificate import IDS, KEY, LOG, SALT, T, entry_of, facts, in_log, issue, others
from tests.app.evidence.test_transparency_log import consistency, flipped, inclusion, mth, root

OTHER = SigningKey(Ed25519PrivateKey.from_private_bytes(b"\x02" * 32))
TRUSTED = [TrustedKey(KEY.private.public_key())]


def encode(envelope):
    return json.dumps(envelope).encode()


def report(envelope, trusted=TRUSTED, **evidence):
    return verify.verify(encode(envelope), trusted, Evidence(**evidence))


def failures(found):
    return {check.name: check.detail for check in found.checks if check.verified is False}


def leaves_of(value, path=()):
    """Paths to every value of a JSON document."""
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [found for name, member in items for found in leaves_of(member, (*path, name))]
    return [path]


def altered(document, path):
    """The document with the value at `path` changed to another of its type."""
    copied = copy.deepcopy(document)
    *way, last = path
    holder = copied
    for name in way:
        holder = holder[name]
    old = holder[last]
    match old:
        case bool():
            holder[last] = not old
        case int() | float():
            holder[last] = old + 1
        case str():
            holder[last] = old[:-1] + ("x" if old[-1:] != "x" else "y")
        case None:
            holder[last] = "something"
        case _:
            holder[last] = {"x": 1} if isinstance(old, dict) else ["x"]
    return copied


STATEMENT, ENVELOPE = issue(facts())


def test_an_untouched_certificate_is_verified():
    found = report(ENVELOPE)
    assert found.verified
    assert failures(found) == {}
    unknown = [check.name for check in found.checks if check.verified is None]
    assert unknown == ["mod_1/versions/2", "same history", "sample ids"]
    assert any("INCONCLUSIVE" in line for line in found.says)
    assert any("PENDING until 2026-03-18" in line for line in found.says)
    assert found.not_proved == [*certificate.NOT_PROVED, "the audit does not show: other attacks"]


FIRST_FORM = {
    "id", "received_at", "due_at", "extended_at", "fulfilled_at", "jurisdiction", "rule", "ground", "decision",
}  # fmt: skip


@pytest.mark.parametrize("name", verify.EARLIER_TYPES)
def test_certificates_of_earlier_forms_are_verified_and_each_form_has_its_own_members(name):
    first = copy.deepcopy(STATEMENT) | {"predicateType": name}
    first["predicate"]["request"] = {n: v for n, v in STATEMENT["predicate"]["request"].items() if n in FIRST_FORM}
    found = report(logged_as_it_is(first))
    assert found.verified, failures(found)
    assert "in time" in found.says[1]
    for mixed in (
        with_value(STATEMENT, name, "predicateType"),
        with_value(first, verify.PREDICATE_TYPE, "predicateType"),
    ):
        assert "members" in failures(report(logged_as_it_is(mixed)))["signature"]
    later = with_value(STATEMENT, "urn:lethe:attestation/deletion/v3", "predicateType")
    assert not report(logged_as_it_is(later)).verified


def test_the_legal_life_is_told():
    told = report(ENVELOPE).says
    assert "entered 2026-03-03T09:30:00.000000Z; its legal ground is 17(1)(b)" in told
    assert any(line.startswith("the identity is confirmed: asked 2026-03-04") for line in told)
    assert "REFUSED: 2 samples of it, 17(3)(e)" in told
    assert "refused 2026-03-05T09:30:00.000000Z by key_2, proposed by key_1" in told


HERE = Path(__file__).parent / "first_form"


def test_a_case_file_of_the_first_form_is_verified():
    """Made by the service before statements had their second form, with words of an officer as the ground."""
    keys = verify.read_trust((HERE / "trust.json").read_bytes())
    found = verify.verify_case((HERE / "case.zip").read_bytes(), keys)
    assert found.verified, failures(found)
    told = "\n".join(found.says)
    assert "1 sample of it was refused, 17(3)(e)" in told
    assert "it was extended: due " in told
    assert "NO DELETION IS CERTIFIED" in told
    assert {check.name for check in found.checks} >= {"negative-report.json, signature", "certificate.json, signature"}


@pytest.mark.parametrize("path", leaves_of(STATEMENT), ids=lambda path: ".".join(map(str, path)))
def test_every_field_of_the_statement_is_guarded(path):
    changed = altered(STATEMENT, path)
    payload = base64.b64encode(certificate.canonical(changed)).decode()
    assert not report(ENVELOPE | {"payload": payload}).verified  # by somebody without the key
    assert not report(certificate.sign(changed, KEY)).verified  # by the signer, past its own log


@pytest.mark.parametrize("path", leaves_of(ENVELOPE), ids=str)
def test_every_field_of_the_envelope_is_guarded(path):
    assert not report(altered(ENVELOPE, path)).verified


def test_every_flipped_bit_of_payload_and_signature_is_refused():
    random = Random(4)
    payload = base64.b64decode(ENVELOPE["payload"])
    signature = base64.b64decode(ENVELOPE["signatures"][0]["sig"])
    for _ in range(300):
        bad = base64.b64encode(flipped(payload, random.randrange(8 * len(payload)))).decode()
        assert not report(ENVELOPE | {"payload": bad}).verified
    for bit in range(8 * len(signature)):
        bad = {"keyid": KEY.id, "sig": base64.b64encode(flipped(signature, bit)).decode()}
        assert not report(ENVELOPE | {"signatures": [bad]}).verified


@pytest.mark.parametrize(
    "part", ["predicate", "request", "samples", "models", "receipts", "not_proved", "log", "supersedes", "wording"]
)
def test_a_statement_without_one_of_its_parts_is_refused(part):
    changed = copy.deepcopy(STATEMENT)
    (changed if part == "predicate" else changed["predicate"]).pop(part)
    assert "signature" in failures(report(certificate.sign(changed, KEY)))


def test_a_member_that_the_format_does_not_know_is_refused():
    changed = copy.deepcopy(STATEMENT)
    changed["predicate"]["request"]["name"] = "somebody"
    assert "members" in failures(report(certificate.sign(changed, KEY)))["signature"]


def logged_as_it_is(statement):
    """An envelope of a statement that the signer logged and signed properly, whatever it says."""
    given = copy.deepcopy(statement)
    entry = entry_of(facts()) | {"data": {"statement": certificate.binding(given)}}
    given["predicate"]["log"] = certificate.log_part(in_log([*others(4), entry], 4))
    return certificate.sign(given, KEY)


def with_value(document, value, *path):
    copied = copy.deepcopy(document)
    holder = copied
    for name in path[:-1]:
        holder = holder[name]
    holder[path[-1]] = value
    return copied


TAGS = base64.b64decode(STATEMENT["predicate"]["samples"]["tags"])


@pytest.mark.parametrize(
    ("why", "value", "path"),
    [
        ("another type", "https://in-toto.io/Statement/v0.1", ["_type"]),
        ("another type", "https://slsa.dev/provenance/v1", ["predicateType"]),
        ("the subjects", "00" * 32, ["subject", 0, "digest", "sha256"]),
        ("the subjects", [], ["subject"]),
        ("the subjects", "sha256:" + "00" * 32, ["predicate", "models", 0, "result_digest"]),
        ("verdict", "pass", ["predicate", "models", 0, "verdict"]),
        ("verdict", None, ["predicate", "models", 0, "audit"]),
        ("receipt", "done", ["predicate", "receipts", 1, "state"]),
        ("receipt", "pending", ["predicate", "receipts", 0, "state"]),
        ("tags", 7, ["predicate", "samples", "count"]),
        ("tags", base64.b64encode(TAGS[16:] + TAGS[:16]).decode(), ["predicate", "samples", "tags"]),
        ("tags", base64.b64encode(TAGS[:112] + TAGS[96:112]).decode(), ["predicate", "samples", "tags"]),
        ("scheme", "sha256", ["predicate", "samples", "scheme"]),
        ("RFC 3339", "2026-03-11", ["predicate", "issued_at"]),
        ("RFC 3339", "2026-03-11T09:30:00+01:00", ["predicate", "request", "due_at"]),
        ("of another type", True, ["predicate", "samples", "count"]),
        ("of another type", "8", ["predicate", "samples", "count"]),
        ("of another request", "del_2", ["predicate", "request", "id"]),
    ],
)
def test_a_statement_that_contradicts_itself_is_refused_though_logged_and_signed(why, value, path):
    assert report(logged_as_it_is(STATEMENT)).verified
    (detail,) = failures(report(logged_as_it_is(with_value(STATEMENT, value, *path)))).values()
    assert why in detail


def test_a_payload_in_another_spelling_is_refused():
    payload = json.dumps(STATEMENT).encode()
    envelope = {"payload": base64.b64encode(payload).decode(), "payloadType": verify.PAYLOAD_TYPE}
    signature = {"keyid": KEY.id, "sig": base64.b64encode(KEY.sign(certificate.pae(payload))).decode()}
    found = failures(report(envelope | {"signatures": [signature]}))
    assert found == {"signature": "the payload is not in canonical form"}


@pytest.mark.parametrize("data", ['{"a": 1, "a": 2}', '{"b": {"a": 1, "a": 1}}', "[NaN]", "[-Infinity]"])
def test_ambiguous_json_is_refused(data):
    with pytest.raises(RefusedError):
        verify.parse_json(data)


@pytest.mark.parametrize("text", ["QR==", "QQ=", "QQ", " QQ==", "QQ==\n", "Q-=="])
def test_base64_has_one_spelling(text):
    assert verify.unbase64("QQ==") == b"A"
    with pytest.raises(ValueError):
        verify.unbase64(text)


def test_an_index_beyond_the_tree_is_refused():
    """The last leaf's path leads to the root for every larger index too."""
    proven = in_log([*others(7), entry_of(facts())], 7)
    statement = certificate.build(replace(facts(), log=replace(proven, index=15)))
    assert failures(report(certificate.sign(statement, KEY))) == {"transparency log": "the tree has no such leaf"}


def test_the_wrong_key_is_refused():
    stranger = [TrustedKey(OTHER.private.public_key())]
    assert "key that you trust" in failures(report(ENVELOPE, stranger))["signature"]
    claimed = copy.deepcopy(ENVELOPE)
    claimed["signatures"][0]["keyid"] = OTHER.id
    assert "not of this key" in failures(report(claimed, stranger))["signature"]
    forged = certificate.sign(STATEMENT, OTHER)
    assert not report(forged).verified
    forged["signatures"][0]["keyid"] = KEY.id
    assert not report(forged).verified


def test_an_unknown_signature_beside_a_good_one_is_passed_over_but_a_bad_one_is_not():
    (good,) = ENVELOPE["signatures"]
    stranger = good | {"keyid": OTHER.id}
    assert report(ENVELOPE | {"signatures": [stranger, good]}).verified
    bad = good | {"sig": base64.b64encode(bytes(64)).decode()}
    assert not report(ENVELOPE | {"signatures": [good, bad]}).verified
    assert not report(ENVELOPE | {"signatures": []}).verified


def test_a_key_counts_only_while_it_was_valid():
    issued = verify.moment(STATEMENT["predicate"]["issued_at"])
    key, hour = TRUSTED[0].key, timedelta(hours=1)
    assert report(ENVELOPE, [TrustedKey(key, issued, issued + hour)]).verified
    assert "not valid" in failures(report(ENVELOPE, [TrustedKey(key, None, issued)]))["signature"]
    assert "not valid" in failures(report(ENVELOPE, [TrustedKey(key, issued + hour, None)]))["signature"]


def test_another_payload_type_is_refused_even_when_signed():
    payload = certificate.canonical(STATEMENT)
    kind = "application/vnd.other+json"
    message = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    signature = {"keyid": KEY.id, "sig": base64.b64encode(KEY.sign(message)).decode()}
    envelope = {"payload": ENVELOPE["payload"], "payloadType": kind, "signatures": [signature]}
    assert "another type" in failures(report(envelope))["signature"]
    assert "not of this key" in failures(report(envelope | {"payloadType": verify.PAYLOAD_TYPE}))["signature"]


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 100_000,
        b'{"payload": 1, "payloadType": 2, "signatures": 3}',
        b'{"payload":"","payload":"","payloadType":"","signatures":[]}', b'{"a": NaN}',
        encode(ENVELOPE | {"signatures": [None]}), encode(ENVELOPE | {"signatures": {}}), encode([ENVELOPE]),
        encode(ENVELOPE | {"payload": ENVELOPE["payload"] + "\n"}), encode(ENVELOPE | {"more": 1}),
    ],
    ids=range(14),
)  # fmt: skip
def test_rubbish_is_refused_and_never_raises(data):
    assert not verify.verify(data, TRUSTED).verified


# -- the log ---------------------------------------------------------------------------------------


def test_the_verifier_reads_every_proof_of_small_trees():
    for size in range(1, 65):
        for index in range(size):
            leaf, proof = mth(index, index + 1), inclusion(index, size)
            assert verify.root_by_inclusion(leaf, index, size, proof) == root(size)
        for old in range(1, size):
            found = verify.roots_by_consistency(old, size, consistency(old, size), root(old))
            assert found == (root(old), root(size))


def test_the_verifier_refuses_spoiled_proofs():
    random = Random(6)
    for _ in range(200):
        size = random.randint(2, 10_000)
        index, old = random.randrange(size), random.randint(1, size - 1)
        leaf, was = mth(index, index + 1), root(old)
        by_path = partial(verify.root_by_inclusion, leaf, index, size)
        by_extension = partial(verify.roots_by_consistency, old, size, old_root=was)
        for proof, read, good in (
            (inclusion(index, size), by_path, root(size)),
            (consistency(old, size), by_extension, (was, root(size))),
        ):
            at = random.randrange(len(proof))
            bad = [*proof[:at], flipped(proof[at], random.randrange(256)), *proof[at + 1 :]]
            assert read(path=proof) == good
            assert read(path=bad) != good
            for length in (proof[1:], [*proof, bytes(32)], [bytes(32), *proof]):
                with pytest.raises(RefusedError):
                    read(path=length)
        for other in {index ^ (1 << bit) for bit in range(14)} & set(range(size)):
            with suppress(RefusedError):
                assert verify.root_by_inclusion(leaf, other, size, inclusion(index, size)) != root(size)


def test_a_proof_of_another_depth_is_refused_though_its_hashes_lead_to_the_root():
    for leaf, index, size, proof in ((mth(0, 1), 0, 3, inclusion(0, 2)), (mth(3, 4), 1, 2, inclusion(3, 4))):
        with pytest.raises(RefusedError):
            verify.root_by_inclusion(leaf, index, size, proof)
    with pytest.raises(RefusedError):
        verify.roots_by_consistency(1, 3, consistency(1, 2), root(1))


def test_sizes_and_roots_are_those_of_the_signed_head():
    for name, change in (
        ("tree_size", 9),
        ("tree_size", 7),
        ("leaf_index", 5),
        ("leaf_index", 3),
        ("root", "00" * 32),
    ):
        changed = copy.deepcopy(STATEMENT)
        changed["predicate"]["log"][name] = change
        assert "transparency log" in failures(report(certificate.sign(changed, KEY)))
    note = STATEMENT["predicate"]["log"]["head"]
    random = Random(7)
    for _ in range(200):
        changed = copy.deepcopy(STATEMENT)
        at = random.randrange(len(note) - 1)
        changed["predicate"]["log"]["head"] = note[:at] + chr(ord(note[at]) ^ 1) + note[at + 1 :]
        assert "transparency log" in failures(report(certificate.sign(changed, KEY)))


def test_heads_signed_by_witnesses_too_are_read_and_heads_of_strangers_are_not():
    text, _, line = STATEMENT["predicate"]["log"]["head"].rpartition("\n\n")
    witness = signing.sign_note(OTHER, "witness.example/w1", text + "\n").rpartition("\n\n")[2]
    at = verify.moment("2026-03-11T00:00:00Z")
    assert verify.open_head(f"{text}\n\n{witness}{line}", TRUSTED, at).size == 8
    for note in (f"{text}\n\n{witness}", text + "\n", f"{text}\n\n", f"{text}\nextra\n\n{line}"):
        with pytest.raises(ValueError):
            verify.open_head(note, TRUSTED, at)


def test_another_entry_of_the_log_does_not_stand_for_the_statement():
    proven = in_log([*others(4), entry_of(facts(verdict="pass"))], 4)
    statement = certificate.build(replace(facts(), log=proven))
    assert "not of this statement" in failures(report(certificate.sign(statement, KEY)))["transparency log"]


ENTRIES = [*others(4), entry_of(facts()), *others(3, 100), *others(5, 200)]
NODES = transparency_log.grow({}, 0, [transparency_log.leaf_hash(certificate.canonical(entry)) for entry in ENTRIES])


def kept_head(size, spoil=0, name=LOG):
    """A head of the certificate's log that somebody kept when it had so many leaves."""
    entries = [entry | {"kind": "altered"} if number < spoil else entry for number, entry in enumerate(ENTRIES[:size])]
    return in_log(entries, 0, name=name).head.note


def between(old, new):
    return [value.hex() for value in transparency_log.roots(transparency_log.consistency_spans(old, new), NODES)]


@pytest.mark.parametrize(("size", "proof"), [(3, between(3, 8)), (4, between(4, 8)), (8, None), (13, between(8, 13))])
def test_a_head_of_the_same_history_is_consistent(size, proof):
    found = report(ENVELOPE, earlier_head=kept_head(size), consistency=proof)
    assert failures(found) == {}
    assert next(check for check in found.checks if check.name == "same history").verified


@pytest.mark.parametrize(
    ("head", "proof", "why"),
    [
        (kept_head(3, spoil=1), between(3, 8), "history was changed"),
        (kept_head(8, spoil=1), None, "forked"),
        (kept_head(3), between(4, 8), "too short"),
        (kept_head(3), None, "--consistency"),
        (kept_head(3), between(3, 8)[:-1], "too short"),
        (kept_head(3), [h.upper() for h in between(3, 8)], "hexadecimal"),
        (kept_head(3, name="lethe-log/another"), between(3, 8), "different logs"),
        ("rubbish", None, "not a signed tree head"),
    ],
)
def test_another_history_is_found_out(head, proof, why):
    found = failures(report(ENVELOPE, earlier_head=head, consistency=proof))
    assert why in found["same history"]


def test_a_hash_too_many_before_a_proof_from_a_whole_subtree_is_refused():
    assert verify.roots_by_consistency(4, 7, consistency(4, 7), root(4)) == (root(4), root(7))
    with pytest.raises(RefusedError, match="too long"):
        verify.roots_by_consistency(4, 7, [bytes(32), *consistency(4, 7)], root(4))


def test_a_kept_head_outlives_its_key():
    _, envelope = issue(facts(), key=OTHER)
    issued = verify.moment(STATEMENT["predicate"]["issued_at"])
    trusted = [TrustedKey(KEY.private.public_key(), None, issued), TrustedKey(OTHER.private.public_key(), issued)]
    found = report(envelope, trusted, earlier_head=kept_head(3), consistency=between(3, 8))
    assert found.verified


def test_consistency_of_heads_with_an_empty_one():
    full, empty = Head(LOG, 3, root(3)), Head(LOG, 0, transparency_log.EMPTY_ROOT)
    assert "empty" in verify.check_consistency(full, empty, None)


# -- checkpoints, ids, successors ------------------------------------------------------------------


def test_a_checkpoint_is_known_by_its_digest_and_a_swapped_one_is_not(tmp_path):
    good, swapped = tmp_path / "new.safetensors", tmp_path / "old.safetensors"
    good.write_bytes(b"the new checkpoint")
    swapped.write_bytes(b"the old checkpoint")
    _, envelope = issue(facts("sha256:" + hashlib.sha256(good.read_bytes()).hexdigest()))
    found = report(envelope, checkpoints=[good])
    assert found.verified
    assert next(c for c in found.checks if c.name == "file new.safetensors").detail.startswith("is mod_1/versions/2")
    assert "not that of any subject" in failures(report(envelope, checkpoints=[swapped]))["file old.safetensors"]
    assert not report(envelope, checkpoints=[good, swapped]).verified
    assert not report(envelope, checkpoints=[tmp_path / "missing"]).verified


def test_ids_are_found_with_the_salt_and_never_repeated():
    found = report(ENVELOPE, membership={"salt": SALT.hex(), "ids": IDS[2:4]})
    assert found.verified
    detail = next(check.detail for check in found.checks if check.name == "sample ids")
    assert detail == "all 2 ids you gave are among its 8"
    for held in (
        {"salt": SALT.hex(), "ids": [IDS[0], "999"]},
        {"salt": "08" * 32, "ids": IDS[:1]},
        {"salt": SALT.hex(), "ids": []},
        {"salt": "07", "ids": IDS[:1]},
        {"salt": SALT.hex()},
        [],
    ):
        found = report(ENVELOPE, membership=held)
        assert "sample ids" in failures(found)
        assert "999" not in failures(found)["sample ids"]


def chain():
    first_statement, first = issue(facts())
    later = facts(issued=T + timedelta(days=20), supersedes=certificate.digest_of(first_statement))
    second_statement, second = issue(later, before=9)
    third = facts(issued=T + timedelta(days=30), supersedes=certificate.digest_of(second_statement))
    return first, second, issue(third, before=12)[1]


def supersession(found):
    return next(check for check in found.checks if check.name == "supersession")


def test_a_chain_of_superseded_certificates():
    first, second, third = chain()
    assert "whole, with 2 superseded" in supersession(report(third, previous=[encode(second), encode(first)])).detail
    assert "which was not given" in supersession(report(third, previous=[encode(second)])).detail
    assert "with 0 superseded" in supersession(report(first)).detail
    for wrong in ([first], [second, second], [third], [second, first, first]):
        assert not report(third, previous=[encode(envelope) for envelope in wrong]).verified
    tampered = altered(second, ("signatures", 0, "sig"))
    assert not report(third, previous=[encode(tampered)]).verified


def test_a_certificate_that_was_cut_off_is_told_as_such():
    found = verify.verify(json.dumps(ENVELOPE).encode()[:-20], TRUSTED)
    assert "this is not JSON, or not all of it" in failures(found).values()


def test_a_chain_through_two_logs_is_a_fork():
    statement, older = issue(facts(), before=9)
    newer = facts(issued=T + timedelta(days=20), supersedes=certificate.digest_of(statement))
    for before in (9, 4):  # a tree of the same size, and one that is shorter than what it should extend
        found = report(issue(newer, before=before)[1], previous=[encode(older)])
        assert "forked" in supersession(found).detail
        assert not found.verified
    assert report(issue(newer, before=15)[1], previous=[encode(older)]).verified


def test_a_superseded_certificate_of_another_request_or_time_is_refused():
    other = facts()
    statement, envelope = issue(replace(other, request=replace(other.request, id="del_2")))
    _, newer = issue(facts(issued=T + timedelta(days=20), supersedes=certificate.digest_of(statement)))
    assert "another request" in supersession(report(newer, previous=[encode(envelope)])).detail
    late_statement, late = issue(facts(issued=T + timedelta(days=40)))
    _, early = issue(facts(issued=T + timedelta(days=20), supersedes=certificate.digest_of(late_statement)))
    assert not report(early, previous=[encode(late)]).verified


# -- as a program ----------------------------------------------------------------------------------


@pytest.fixture
def alone(tmp_path):
    """A folder with the one file, the one dependency, and an interpreter that sees nothing else."""
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    site = Path(cryptography.__file__).parent.parent
    for path in (Path(cryptography.__file__).parent, Path(cffi.__file__).parent, *site.glob("_cffi_backend*.so")):
        (libraries / path.name).symlink_to(path)
    shutil.copy(verify.__file__, tmp_path / "verify.py")
    code = (
        f"import sys, runpy; sys.path.append({str(libraries)!r}); sys.argv = ['verify.py', *sys.argv[1:]]\n"
        "import importlib.util as u\n"
        "assert not any(map(u.find_spec, ('app', 'worker', 'lethe', 'httpx', 'numpy')))\n"
        "runpy.run_path('verify.py', run_name='__main__')"
    )

    def call(*arguments):
        command = [sys.executable, "-I", "-S", "-c", code, *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    (tmp_path / "key.pem").write_text(KEY.public_pem)
    (tmp_path / "certificate.json").write_text(json.dumps(ENVELOPE))
    return tmp_path, call


def test_the_file_works_alone(alone):
    folder, call = alone
    done = call("certificate.json", "--key", "key.pem")
    assert (done.returncode, done.stderr) == (0, "")
    assert "The certificate is verified." in done.stdout
    assert "Not proved:" in done.stdout
    (folder / "head.txt").write_text(kept_head(3))
    (folder / "proof.json").write_text(json.dumps({"hashes": between(3, 8)}))
    (folder / "ids.json").write_text(json.dumps({"salt": SALT.hex(), "ids": IDS}))
    more = ("--earlier-head", "head.txt", "--consistency", "proof.json", "--membership", "ids.json", "--json")
    document = json.loads(call("certificate.json", "--key", "key.pem", *more).stdout)
    assert document["verified"]
    assert [c["name"] for c in document["checks"] if c["verified"] is None] == ["mod_1/versions/2"]


def test_the_exit_status_says_no(alone):
    folder, call = alone
    (folder / "bad.json").write_text(json.dumps(altered(ENVELOPE, ("payload",))))
    done = call("bad.json", "--key", "key.pem")
    assert done.returncode == 1
    assert "The certificate is NOT VERIFIED." in done.stdout
    assert call("certificate.json").returncode == 2
    ec = generate_private_key(SECP256R1()).public_key()
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    (folder / "ec.pem").write_bytes(ec.public_bytes(serialization.Encoding.PEM, info))
    with (folder / "large.json").open("wb") as file:
        file.truncate(verify.MAX_BYTES + 1)
    assert "too large" in call("large.json", "--key", "key.pem").stdout
    assert "not an Ed25519" in call("certificate.json", "--key", "ec.pem").stdout
    done = call("certificate.json", "--key", "certificate.json")
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ("missing.json", "--key", "key.pem"),
        ("certificate.json", "--key", "missing.pem"),
        ("certificate.json", "--key", "key.pem", "--trust", "missing.json"),
        ("certificate.json", "--key", "key.pem", "--checkpoint", "missing.safetensors"),
        ("certificate.json", "--key", "key.pem", "--previous", "missing.json"),
        (".", "--key", "key.pem"),
    ],
)
def test_a_file_that_cannot_be_read_is_wrong_usage_and_says_nothing_of_the_certificate(alone, arguments):
    _, call = alone
    done = call(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "NOT VERIFIED" not in done.stderr
    assert next(name for name in arguments if name.startswith(("missing", "."))) in done.stderr


def test_a_trust_file_gives_keys_their_validity(alone):
    folder, call = alone
    known = signing.rotate(signing.rotate([], KEY, T), OTHER, T + timedelta(days=20))
    (folder / "trust.json").write_text(json.dumps(signing.trust_document(known)))
    assert call("certificate.json", "--trust", "trust.json").returncode == 0
    known = signing.rotate(signing.rotate([], KEY, T), OTHER, T + timedelta(days=1))
    (folder / "trust.json").write_text(json.dumps(signing.trust_document(known)))
    assert call("certificate.json", "--trust", "trust.json").returncode == 1
    document = signing.trust_document(known)
    document["keys"][0]["id"] = OTHER.id
    (folder / "trust.json").write_text(json.dumps(document))
    assert "another id" in call("certificate.json", "--trust", "trust.json").stdout
    (folder / "array.json").write_text("[]")
    for other in ("certificate.json", "array.json"):
        assert "not a trust file" in call("certificate.json", "--trust", other).stdout


def test_it_runs_as_a_module(alone):
    folder, _ = alone
    command = [sys.executable, "-m", "lethe.verify", folder / "certificate.json", "--key", folder / "key.pem"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LETHE_")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert (done.returncode, done.stderr) == (0, "")


def test_control_characters_do_not_reach_the_terminal():
    given = facts()
    hostile = replace(given, request=replace(given.request, rule="\x1b[2J\x07rule"))
    found = report(issue(hostile)[1])
    assert found.verified
    assert "\x1b" not in verify.show(found)
    assert "\x07" not in verify.show(found)


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_case_file_that_is_packed_in_another_way_is_refused_and_raises_nothing(method):
    """Found by fuzzing: damaged LZMA raised an error that nobody caught."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        archive.writestr("manifest.json", b"hello" * 50)
    whole = made.getvalue()
    for at in range(len(whole)):
        damaged = whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]
        assert not verify.verify_case(damaged, TRUSTED).verified
    assert failures(verify.verify_case(whole, TRUSTED)) == {"zip": "a part is packed in a way that no case file has"}


def test_a_signed_manifest_that_names_a_part_without_its_digest_is_refused_and_raises_nothing():
    """Found by fuzzing: anyone can sign such a file with a key of their own, and put the key into it."""
    predicate = {"wording": "", "issued_at": "2026-03-12T09:30:00.000000Z", "request": "del_1", "certificate": None}
    statement = {
        "_type": verify.STATEMENT_TYPE,
        "predicateType": verify.CASE_TYPES[1],
        "predicate": predicate | {"not_proved": []},
    }
    for digest, words in (
        ({}, "the manifest names a part without its SHA-256"),
        ({"sha256": 5}, "the manifest names a part without its SHA-256"),
    ):
        signed = certificate.sign(statement | {"subject": [{"name": "a", "digest": digest}]}, KEY)
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as archive:
            archive.writestr("manifest.json", encode(signed))
        assert failures(verify.verify_case(made.getvalue(), TRUSTED)) == {"manifest.json": words}


def test_names_of_parts_with_endless_numbers_are_an_answer():
    """`superseded-9…9.json` with more digits than Python turns into a number."""
    subject = [{"name": "a", "digest": {"sha256": "0" * 64}}]
    predicate = {
        "wording": "",
        "issued_at": "2026-03-12T09:30:00.000000Z",
        "request": "del_1",
        "certificate": "sha256:x",
        "not_proved": [],
    }
    statement = {
        "_type": verify.STATEMENT_TYPE,
        "predicateType": verify.CASE_TYPES[1],
        "predicate": predicate,
        "subject": subject,
    }
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("manifest.json", encode(certificate.sign(statement, KEY)))
        archive.writestr("certificate.json", encode(ENVELOPE))
        archive.writestr(f"superseded-{'9' * 5000}.json", b"{}")
    assert not verify.verify_case(made.getvalue(), TRUSTED).verified
