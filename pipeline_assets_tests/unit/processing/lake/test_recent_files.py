"""Files of the lake that a process holds for a while: never more than it may, and those that were asked for last."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.processing.lake.recent import Recent

MOST = 1_000


def column(size: int) -> pa.ChunkedArray:
    """A column of so many bytes."""
    return pa.chunked_array([pa.array(range(size // 8), pa.int64())])


@given(steps=st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["read", "x", "y", "content"]), st.integers(8, 600)), max_size=40))
def test_what_is_held_is_what_was_given_and_never_too_much(steps: list[tuple[str, str, int]]) -> None:
    """Whatever is given and asked for in whatever order; of a file all that was given is there, or nothing."""
    recent, given = Recent(MOST), dict[str, dict[str, object]]()
    for path, what, size in steps:
        if what == "content":
            recent.hold(path, {}, pa.py_buffer(bytes(size)))
        elif what != "read":
            recent.hold(path, {(what, pa.int64()): column(size)})
        held = recent.of(path)
        known = given.setdefault(path, {})
        known |= {} if what == "read" else {what: held.content if what == "content" else column(size)}
        found = {name: one for (name, _), one in held.columns.items()} | ({} if held.content is None else {"content": held.content})
        if not found:
            known.clear()
        assert found == known
        for other in set(given) - {path}:
            if not recent.of(other).nbytes:
                given[other].clear()
        assert sum(recent.of(one).nbytes for one in "abcd") <= MOST


def test_the_file_that_was_asked_for_the_longest_ago_goes_first() -> None:
    """Asking for a file keeps it."""
    recent = Recent(MOST)
    for path in ("a", "b"):
        recent.hold(path, {("x", pa.int64()): column(400)})
    recent.of("a")
    recent.hold("c", {("x", pa.int64()): column(400)})

    assert [bool(recent.of(path).nbytes) for path in ("a", "b", "c")] == [True, False, True]
