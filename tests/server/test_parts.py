"""Parts of a body: the same bytes, and few objects however small they are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace.server.parts import SMALL, gather

PART = st.one_of(st.binary(max_size=4), st.integers(SMALL - 1, SMALL + 1).map(lambda size: b"x" * size))


@given(st.lists(PART, max_size=50))
def test_parts_are_the_same_bytes_in_few_objects(came: list[bytes]) -> None:
    parts: list[bytes | bytearray] = []
    for part in came:
        gather(parts, part)
    assert b"".join(parts) == b"".join(came)
    assert len(parts) <= 2 + 2 * sum(len(part) >= SMALL for part in came)


def test_one_part_alone_is_what_came() -> None:
    parts: list[bytes | bytearray] = []
    part = b"hello"
    gather(parts, part)
    assert parts[0] is part
