"""Which values a process may keep: never one that the notes it has read speak against, against a store that is written down."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pytest

from pipeline_assets.model_lifecycle.feature_store.online.kept_values import TURNS, KeptValues, Noted, Value
from pipeline_assets.model_lifecycle.feature_store.online.position import Position
from pipeline_assets.model_lifecycle.feature_store.online.source import Asked

KEYS = ("a", "b", "c")
EVER = (-(2**62), 2**62)
STEPS = 400


class State(NamedTuple):
    """Of a key: the version of the feed, and how often a worker and others had changed it."""

    version: int
    by_worker: int
    by_hand: int


class Question(NamedTuple):
    """A query under way: the turn before it, and what it found."""

    turn: int
    position: Position
    found: dict[str, State]


@dataclass
class Written:
    """A store with all that happened to it, and what was read of it."""

    states: dict[str, State] = field(default_factory=lambda: dict.fromkeys(KEYS, State(0, 0, 0)))
    offset: int = 0
    changed: set[str] = field(default_factory=set)
    looked: dict[str, State] = field(default_factory=dict)
    at_offset: dict[tuple[int, int, str], int] = field(default_factory=dict)

    @property
    def version(self) -> int:
        """Of the feed."""
        return self.states["a"].version

    @property
    def position(self) -> Position:
        """As far as the worker came."""
        return Position(feed="f", hash="h", watermark=None, snapshot_id=None, is_between=False, offsets={0: self.offset})

    def change(self, key: str, *, by_hand: bool) -> None:
        """By hand the position stays."""
        was = self.states[key]
        self.states[key] = was._replace(by_hand=was.by_hand + 1) if by_hand else was._replace(by_worker=was.by_worker + 1)
        self.changed.add(key)
        self.offset += not by_hand

    def build(self) -> None:
        """Anew, to the same position."""
        self.states = {key: State(was.version + 1, was.by_worker, 0) for key, was in self.states.items()}

    def look(self, kept: KeptValues, *, is_whole: bool) -> None:
        """One turn of the thread that reads notes."""
        self.looked = dict(self.states)
        kept.follow(Noted((self.version, 0), self.position, is_whole, [(0, key) for key in self.changed]), float("inf"))
        self.changed.clear()

    def note_offset(self) -> None:
        """What the worker had made of each key by this offset."""
        for key, state in self.states.items():
            self.at_offset[self.version, self.offset, key] = state.by_worker


def said(kept: KeptValues, key: str) -> tuple[State, int] | None:
    """What is kept of a key, and the offset that is named with it."""
    known = kept.known({0: Asked(keys=[key], key=[0], first=[0], last=[0])})
    if known is None or (value := known.values[0][0]) is None:
        return None
    version, by_worker, by_hand = (int(number) for number in value.split(b","))
    return State(version, by_worker, by_hand), known.position.offsets[0]


def keep(kept: KeptValues, question: Question) -> None:
    """As a reader does once its query has ended."""
    found = {(0, key): Value(*EVER, ",".join(map(str, state)).encode()) for key, state in question.found.items()}
    kept.keep(question.turn, question.position, found)


@pytest.mark.parametrize("seed", range(40))
def test_what_is_kept_is_no_older_than_the_notes_and_of_its_position(seed: int) -> None:
    """In courses of changes by a worker and by hand, builds, looks and queries that end whenever they like."""
    random, store, kept = np.random.default_rng(seed), Written(), KeptValues()
    under_way: list[Question] = []
    answered = 0
    for _ in range(STEPS):
        match random.choice(["worker", "hand", "build", "look", "lost", "ask", "end"], p=[0.12, 0.05, 0.01, 0.25, 0.01, 0.28, 0.28]):
            case "worker" | "hand" as who:
                store.change(str(random.choice(KEYS)), by_hand=who == "hand")
            case "build":
                store.build()
            case "look" | "lost" as how:
                store.look(kept, is_whole=how == "look")
            case "ask":
                under_way.append(Question(kept.turn, store.position, dict(store.states)))
            case _:
                if under_way:
                    keep(kept, under_way.pop(int(random.integers(len(under_way)))))
        store.note_offset()
        for key in KEYS:
            if (one := said(kept, key)) is None:
                continue
            state, offset = one
            answered += 1
            assert store.looked[key] <= state <= store.states[key]
            assert state.by_worker == store.at_offset[state.version, offset, key]

    assert answered > STEPS // 10


@pytest.mark.parametrize("looks", [1, 3, TURNS - 1])
def test_a_query_that_lasts_over_looks_is_kept_but_for_what_changed(looks: int) -> None:
    """A slow query fills what nobody changed meanwhile, at the position of the newest look."""
    store, kept = Written(), KeptValues()
    store.look(kept, is_whole=True)
    question = Question(kept.turn, store.position, dict(store.states))
    store.change("b", by_hand=False)
    for _ in range(looks):
        store.look(kept, is_whole=True)
    keep(kept, question)

    assert [said(kept, key) for key in KEYS] == [(State(0, 0, 0), 1), None, (State(0, 0, 0), 1)]


def test_a_query_that_lasts_too_long_or_is_ahead_of_the_notes_is_not_kept() -> None:
    """Nothing is known of notes that were read so long ago, nor of a position that no look has seen."""
    store, kept = Written(), KeptValues()
    store.look(kept, is_whole=True)
    slow = Question(kept.turn, store.position, dict(store.states))
    for _ in range(TURNS):
        store.look(kept, is_whole=True)
    store.change("a", by_hand=False)
    ahead = Question(kept.turn, store.position, dict(store.states))
    for question in (slow, ahead):
        keep(kept, question)

    assert len(kept) == 0
