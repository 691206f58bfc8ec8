"""Metadata of the lake that a process holds: what was read, once, and never more than it may hold."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.core.held_metadata import HeldMetadata

MOST = 12


@given(asked=st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 15)), max_size=40))
def test_what_is_held_is_what_was_read_and_never_too_much(asked: list[tuple[str, int]]) -> None:
    """Whatever is asked for in whatever order: an object is as it was read, and what is held has at most so many entries."""
    held, known = HeldMetadata(MOST), dict[str, list[str]]()
    for path, size in asked:
        content = [path] * size
        before, found = known.get(path), held.of(path, lambda content=content: content, len)  # type: ignore[misc]
        assert found is content or found is before
        known[path] = found

    assert held.entries <= MOST


def test_an_object_is_read_once_until_others_are_asked_for() -> None:
    """The one that was asked for the longest ago goes first; one that cannot be read is not held."""
    held, read = HeldMetadata(MOST), list[str]()

    def content(path: str) -> list[int]:
        read.append(path)
        return [1, 2, 3]

    for path in "abacdabc":
        held.of(path, lambda path=path: content(path), len)  # type: ignore[misc]

    assert "".join(read) == "abcdbc"
