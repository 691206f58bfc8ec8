"""What a reader asks of a store of states, and what it is answered: the same of Postgres and of a copy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed
from pipeline_assets.model_lifecycle.feature_store.online.position import Position


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The keys of an entity that some questions ask for, each once, with the first and the last time; of each question its key, or -1."""

    keys: list[str]
    key: list[int]
    first: list[int]
    last: list[int]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked of a view, by its slot in its feed; for each key the version of its state whose values the reader has, or None."""

    slot: int
    asked: Asked
    versions: list[str | None]


class Row(NamedTuple):
    """What a store has for one key of one view.

    value: the finished values; None where the version is the one that the reader has. state: the packed state; None there, and where the
    finished values hold at all times that are asked for. version: another one whenever the state was written; given with a state.
    holds: from when on and until when finished values hold (µs), where the store says so.
    """

    place: int
    value: bytes | None
    state: bytes | None
    version: str
    holds: tuple[int, int] | None = None


# The rows of each view that was asked for, by the number of its feed and its slot in it.
Found = Mapping[tuple[int, int], Sequence[Row]]


class Source(Protocol):
    """A store of the states of some feeds."""

    @property
    def feeds(self) -> tuple[Feed, ...]:
        """The feeds, counted from 0 on."""

    def ask(self, wanted: Sequence[Sequence[Wanted]]) -> tuple[Found, list[Position]]:
        """What is known of the keys that are asked for of each feed, and the position that the feed had with exactly these states."""
