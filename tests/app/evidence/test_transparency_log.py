"""The Merkle tree against RFC 9162's own recursive definitions, and the log in both databases."""

from __future__ import annotations

import hashlib
import json
import threading
from functools import cache
from math import log2
from random import Random

import pytest
from sqlalchemy import text

from app import events
from app.core.config import Settings
from app.core.db import Database
from app.core.keys import FIRST_TENANT
from app.core.tables import AuditEvent, Tenant
from app.evidence import certificate, transparency_log
from app.evidence.signing import canonical, load
from app.evidence.transparency_log import cover, fold, grow, leaf_hash
from lethe import verify
from tests.app.evidence.test_certificate import facts

LARGE = 10_000
SMALL = 64

# The eight inputs and roots that Certificate Transparency implementations share.
CT_INPUTS = ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
CT_ROOTS = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


# -- RFC 9162, section 2.1, word for word, over the inputs "0", "1", "2" … ---------------------------


def k_of(n):
    """The largest power of two smaller than n."""
    return 2 ** max(i for i in range(n) if 2**i < n) if n < 20 else 2 ** (len(bin(n - 1)) - 3)


@cache
def mth(start, end):
    if start == end:
        return hashlib.sha256().digest()
    if end - start == 1:
        return hashlib.sha256(b"\x00" + str(start).encode()).digest()
    k = k_of(end - start)
    return hashlib.sha256(b"\x01" + mth(start, start + k) + mth(start + k, end)).digest()


def path(m, start, end):
    n = end - start
    if n == 1:
        return []
    k = k_of(n)
    if m < k:
        return [*path(m, start, start + k), mth(start + k, end)]
    return [*path(m - k, start + k, end), mth(start, start + k)]


def subproof(m, start, end, b):
    n = end - start
    if m == n:
        return [] if b else [mth(start, end)]
    k = k_of(n)
    if m <= k:
        return [*subproof(m, start, start + k, b), mth(start + k, end)]
    return [*subproof(m - k, start + k, end, False), mth(start, start + k)]


TREE = grow({}, 0, (leaf_hash(str(i).encode()) for i in range(LARGE)))


def root(size):
    return fold([TREE[node] for node in cover(0, size)])


def inclusion(index, size):
    return transparency_log.roots(transparency_log.inclusion_spans(index, size), TREE)


def consistency(old, new):
    return transparency_log.roots(transparency_log.consistency_spans(old, new), TREE)


def flipped(value, bit):
    return (int.from_bytes(value) ^ (1 << bit)).to_bytes(len(value))


# -- the tree --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", range(9))
def test_known_roots(size):
    nodes = grow({}, 0, [leaf_hash(bytes.fromhex(data)) for data in CT_INPUTS[:size]])
    assert fold([nodes[node] for node in cover(0, size)]).hex() == CT_ROOTS[size]


def test_every_inclusion_proof_of_every_small_tree():
    for size in range(1, SMALL + 1):
        assert root(size) == mth(0, size)
        for index in range(size):
            assert inclusion(index, size) == path(index, 0, size)


def test_every_consistency_proof_of_every_small_tree():
    for new in range(1, SMALL + 1):
        for old in range(1, new + 1):
            assert consistency(old, new) == subproof(old, 0, new, True)


def test_random_proofs_of_large_trees():
    random = Random(1)
    for _ in range(400):
        size = random.randint(2, LARGE)
        index, old = random.randrange(size), random.randint(1, size)
        assert root(size) == mth(0, size)
        assert inclusion(index, size) == path(index, 0, size)
        assert consistency(old, size) == subproof(old, 0, size, True)


def test_appending_and_proving_touch_few_nodes():
    for size in (LARGE, LARGE - 1, 8192, 8193):
        bound = 2 * (log2(size) + 1)
        assert len(cover(0, size)) <= bound / 2
        for other in (1, 7, size // 2, size - 1):
            assert len(transparency_log.span_nodes(transparency_log.inclusion_spans(other, size))) <= bound
            assert len(transparency_log.span_nodes(transparency_log.consistency_spans(other, size))) <= bound


@pytest.mark.parametrize(("start", "more"), [(0, 5), (1, 1), (7, 9), (8, 8), (100, 1), (1000, 24)])
def test_growing_needs_only_the_edge(start, more):
    edge = {node: TREE[node] for node in cover(0, start)}
    fresh = grow(edge, start, (mth(i, i + 1) for i in range(start, start + more)))
    assert fresh.items() <= TREE.items()
    assert fold([(edge | fresh)[node] for node in cover(0, start + more)]) == mth(0, start + more)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (3, 3), (-1, 3)])
def test_there_is_no_proof_of_a_leaf_outside_the_tree(index, size):
    with pytest.raises(ValueError, match="no such leaf"):
        transparency_log.inclusion_spans(index, size)


# -- the log in the database -----------------------------------------------------------------------

LOG = "lethe-log"
ON_POSTGRES = pytest.mark.parametrize(
    "database_url", [pytest.param("postgres", marks=pytest.mark.services)], indirect=True
)


@pytest.fixture
def log(database: Database) -> Database:
    return database


@pytest.fixture
def key(settings: Settings):
    return load("", settings.data_dir)


def tell(database, count, start=0, tenant=FIRST_TENANT):
    with database.write() as session:
        for number in range(start, start + count):
            events.record(session, tenant, "test.happened", f"obj_{number}", figure=0.1 * number, name="ä")


def sequenced(database, key, tenant=FIRST_TENANT):
    with database.write() as session:
        return transparency_log.sequence(session, tenant, key, LOG)


def recomputed(database, tenant=FIRST_TENANT):
    """The root over the log's entries, by nothing that is stored."""
    with database.read() as session:
        leaves = [leaf_hash(canonical(entry)) for entry in transparency_log.entries(session, tenant, 0, 10**6)]
    return len(leaves), fold([grow({}, 0, leaves)[node] for node in cover(0, len(leaves))])


def test_events_are_logged_in_their_order(log, key):
    heads = []
    for start, count in ((0, 1), (1, 6), (7, 0), (7, 30)):
        tell(log, count, start)
        heads.append(sequenced(log, key))
        assert (heads[-1].size, heads[-1].root) == recomputed(log)
    assert [head.size for head in heads] == [1, 7, 7, 37]
    with log.read() as session:
        assert transparency_log.waiting(session) == []
        assert [e["object"] for e in transparency_log.entries(session, FIRST_TENANT, 5, 3)] == [
            "obj_5",
            "obj_6",
            "obj_7",
        ]
        last = heads[-1]
        for index, entry in enumerate(transparency_log.entries(session, FIRST_TENANT, 0, 100)):
            proof = transparency_log.prove_inclusion(session, FIRST_TENANT, index, last.size)
            assert verify.root_by_inclusion(leaf_hash(canonical(entry)), index, last.size, proof) == last.root
        proof = transparency_log.prove_consistency(session, FIRST_TENANT, 7, 37)
        assert verify.roots_by_consistency(7, 37, proof, heads[1].root) == (heads[1].root, last.root)
        with pytest.raises(ValueError, match="no tree of that size"):
            transparency_log.prove_inclusion(session, FIRST_TENANT, 0, 64)


def test_more_events_than_a_batch(log, key, monkeypatch):
    monkeypatch.setattr(transparency_log, "BATCH", 16)
    tell(log, 40)
    assert [sequenced(log, key).size for _ in range(4)] == [16, 32, 40, 40]
    assert sequenced(log, key).root == recomputed(log)[1]


def test_an_event_that_becomes_visible_late_is_not_skipped(log, key):
    def appear(*numbers):
        with log.write() as session:
            for number in numbers:
                facts = {"kind": "test.happened", "object_id": f"obj_{number}", "data": {}}
                session.add(
                    AuditEvent(number=number, tenant_id=FIRST_TENANT, at=transparency_log.db.now(session), **facts)
                )

    appear(101, 103)
    assert sequenced(log, key).size == 2
    appear(104, 102)
    with log.read() as session:
        assert transparency_log.waiting(session) == [FIRST_TENANT]
    assert sequenced(log, key).size == 4
    with log.read() as session:
        found = [entry["object"] for entry in transparency_log.entries(session, FIRST_TENANT, 0, 10)]
    assert found == ["obj_101", "obj_103", "obj_102", "obj_104"]


@ON_POSTGRES
def test_a_transaction_that_commits_after_later_numbers(log, key):
    with log.write() as slow:
        events.record(slow, FIRST_TENANT, "test.happened", "obj_slow")
        slow.flush()
        tell(log, 2)
        assert sequenced(log, key).size == 2
    assert sequenced(log, key).size == 3
    with log.read() as session:
        found = [entry["object"] for entry in transparency_log.entries(session, FIRST_TENANT, 0, 10)]
        numbers = session.scalars(text("SELECT number FROM events ORDER BY leaf")).all()
    assert found == ["obj_0", "obj_1", "obj_slow"]
    assert numbers[2] < numbers[0] < numbers[1]


def test_several_sequencers_and_writers_at_once(log, key):
    def work(number):
        for step in range(10):
            tell(log, 2, 100 * number + 2 * step)
            sequenced(log, key)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    head = sequenced(log, key)
    assert (head.size, head.root) == recomputed(log) == (80, head.root)
    with log.read() as session:
        objects = [entry["object"] for entry in transparency_log.entries(session, FIRST_TENANT, 0, 100)]
    for number in range(4):
        mine = [o for o in objects if int(o[4:]) // 100 == number]
        assert mine == [f"obj_{100 * number + step}" for step in range(20)]


@ON_POSTGRES
def test_a_request_does_not_wait_for_the_sequencer(log, key):
    tell(log, 1)
    with log.write() as session:
        transparency_log.sequence(session, FIRST_TENANT, key, LOG)
        with log.write() as other:
            other.execute(text("SET LOCAL lock_timeout = '500ms'"))
            events.record(other, FIRST_TENANT, "test.happened", "obj_1")
    assert sequenced(log, key).size == 2


def test_a_log_keeps_the_name_that_it_began_with(log, key):
    """Another name would make another log of it: no head that an auditor kept could be compared with a later one."""
    tell(log, 1)
    first = sequenced(log, key)
    tell(log, 1, start=1)
    with log.write() as session:
        second = transparency_log.sequence(session, FIRST_TENANT, key, "renamed")
    assert (second.size, second.origin) == (2, first.origin)
    assert f"\N{EM DASH} {LOG}/{FIRST_TENANT} " in second.note


def test_each_tenant_has_its_own_tree(log, key):
    with log.write() as session:
        session.add(Tenant(id="ten_other", name="other", created_at=transparency_log.db.now(session)))
    tell(log, 3)
    tell(log, 2, tenant="ten_other")
    with log.read() as session:
        assert sorted(transparency_log.waiting(session)) == [FIRST_TENANT, "ten_other"]
    heads = [sequenced(log, key, tenant) for tenant in (FIRST_TENANT, "ten_other")]
    assert [head.size for head in heads] == [3, 2]
    for tenant in (FIRST_TENANT, "ten_other"):
        tell(log, 4, start=10, tenant=tenant)
        head = sequenced(log, key, tenant)
        assert (head.size, head.root) == recomputed(log, tenant)
    assert [head.note.splitlines()[0] for head in heads] == [f"{LOG}/{FIRST_TENANT}", f"{LOG}/ten_other"]


def test_an_event_recorded_with_its_proof(log, key):
    tell(log, 5)
    with log.write() as session:
        proven = transparency_log.record_proven(session, FIRST_TENANT, "test.sealed", "obj_9", {"a": 1}, key, LOG)
    assert (proven.index, proven.head.size, proven.entry["data"]) == (5, 6, {"a": 1})
    assert verify.root_by_inclusion(leaf_hash(canonical(proven.entry)), 5, 6, proven.path) == proven.head.root


def test_a_certificate_is_sealed_into_the_log(log, key):
    tell(log, 5)
    earlier = sequenced(log, key)
    tell(log, 3, 5)
    with log.write() as session:
        sealed = certificate.seal(session, FIRST_TENANT, facts(), key, LOG)
    trusted = [verify.TrustedKey(key.private.public_key())]
    with log.read() as session:
        proof = transparency_log.prove_consistency(session, FIRST_TENANT, 5, 9)
        assert transparency_log.entries(session, FIRST_TENANT, 8, 5)[0]["object"] == "del_1"
    evidence = verify.Evidence(earlier_head=earlier.note, consistency=[value.hex() for value in proof])
    report = verify.verify(json.dumps(sealed.envelope).encode(), trusted, evidence)
    assert [check.verified for check in report.checks if check.name in ("transparency log", "same history")] == [
        True,
        True,
    ]
    assert report.verified
    again = verify.open_envelope(json.dumps(sealed.envelope).encode(), trusted)
    assert again.digest == sealed.digest


def test_a_head_is_signed_again_by_a_new_key(log, key, tmp_path):
    empty = sequenced(log, key)
    assert (empty.size, empty.root) == (0, transparency_log.EMPTY_ROOT)
    tell(log, 2)
    old, same = sequenced(log, key), sequenced(log, key)
    new = sequenced(log, load("", tmp_path / "another"))
    assert old == same
    assert (new.size, new.root) == (old.size, old.root)
    assert new.note != old.note
