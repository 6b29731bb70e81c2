"""Both packed forms against plain sets."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from app.core.positions import bitmap, marked, mask_of, members, pack, unpack

SETS = st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1))))


@given(SETS)
def test_both_forms_give_the_set_back(case: tuple[int, set[int]]) -> None:
    size, wanted = case
    positions = np.array(sorted(wanted), dtype=np.int64)
    assert unpack(pack(wanted)).tolist() == sorted(wanted)
    assert unpack(pack([*wanted, *wanted])).tolist() == sorted(wanted), "once each"
    bits = bitmap(positions, size)
    assert len(bits) == (size + 7) // 8
    assert members(bits, size).tolist() == sorted(wanted)
    assert mask_of(bits, size).tolist() == [n in wanted for n in range(size)]
    assert members(bits, len(bits) * 8).tolist() == sorted(wanted), "no bit is set beyond the end"


@given(SETS, st.data())
def test_marking_is_union_and_clearing_is_difference(case: tuple[int, set[int]], data: st.DataObject) -> None:
    size, first = case
    second = data.draw(st.sets(st.integers(0, size - 1)))
    bits = bitmap(np.array(sorted(first), dtype=np.int64), size)
    change = np.array(sorted(second), dtype=np.int64)
    assert set(members(marked(bits, size, change), size)) == first | second
    assert set(members(marked(bits, size, change, value=False), size)) == first - second
    assert set(members(marked(b"", size, change), size)) == second


def test_an_empty_bitmap_is_an_empty_set_and_positions_reach_beyond_2_to_the_31() -> None:
    assert members(b"", 5).tolist() == []
    assert unpack(b"").tolist() == []
    assert pack([]) == b""
    assert unpack(pack([2**32 - 1, 0])).tolist() == [0, 2**32 - 1]
    assert unpack(pack(np.array([3, 1, 3]))).tolist() == [1, 3]
