"""How far a change log was merged, and what holds for all of it: what the manifest of a staged table says, to go on from there.

The records that have come since can be merged without the others where they begin no epoch and change no fact of the whole log. So they
must be changes of rows, after all that was merged by offset, in an epoch that was complete.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from typing import Any

import numpy as np
import polars as pl

from pipeline_assets.ingestion.streaming.staged.change_log import LSN, OFFSET, OPERATION, PARTITION, READ, TOPIC, TRUNCATED
from pipeline_assets.ingestion.streaming.staged.facts import Epoch, Facts, change_offsets, epochs_of, first_values, marks, numbered
from pipeline_assets.ingestion.streaming.staged.keys import Moves
from pipeline_assets.spec.sources import Source

# Another number where the same log and contract give other versions than before.
RULES = 2


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a log was merged.

    `rules` is a digest of the declaration, `snapshot` that of the log, `place` its topic and partition. `changes` counts its distinct
    records, `lsn` is that of the newest.
    """

    rules: str
    snapshot: int
    place: tuple[str, int]
    last_offset: int
    changes: int
    lsn: int
    facts: Facts

    def stored(self) -> dict[str, Any]:
        """All of it in JSON's types."""
        return asdict(self)

    def obstacle(self, fresh: pl.DataFrame, fields: Sequence[str]) -> str | None:
        """Why records that came since, with these fields of the table, cannot be merged without the others; None where they can."""
        if fresh.is_empty():
            return None
        begins = fresh.select(pl.col(OPERATION).is_in((READ, TRUNCATED)).any()).item()
        first = first_values(numbered(fresh, self.facts.epochs), fields, self.facts.first_values)
        found = {
            "records from another place": set(fresh.select(TOPIC, PARTITION).unique().rows()) != {self.place},
            "a snapshot or a truncation": begins,
            "records before those that were merged": fresh.select(pl.col(OFFSET).min()).item() <= self.last_offset,
            "a snapshot that was not complete": not self.facts.epochs or not self.facts.epochs[-1].is_complete,
            "a column with a value earlier than before": first != self.facts.first_values,
        }
        return next((reason for reason, is_so in found.items() if is_so), None)

    def after(self, fresh: pl.DataFrame, snapshot: int) -> "Position":
        """The position with these records merged as well."""
        lsn = max([self.lsn, *fresh[LSN].to_list()])
        last = max([self.last_offset, *fresh[OFFSET].to_list()])
        changes = self.changes + fresh[OFFSET].n_unique()
        return replace(self, snapshot=snapshot, last_offset=last, changes=changes, lsn=lsn)


def rules_of(source: Source) -> str:
    """A digest of all that decides, beside the log, what is staged of a followed table."""
    return sha256(f"{RULES} {source.known_at_commit} {source.contract!r}".encode()).hexdigest()[:32]


def position_of(stored: Mapping[str, Any]) -> Position | None:
    """The position that was stored; None where there is none."""
    if not stored:
        return None
    facts = stored["facts"]
    epochs = tuple(Epoch(**one) for one in facts["epochs"])
    first = {name: (place[0], place[1], place[2], place[3]) for name, place in facts["first_values"].items()}
    place = (stored["place"][0], stored["place"][1])
    return Position(**{**stored, "place": place, "facts": Facts(epochs=epochs, first_values=first)})


@dataclass(kw_only=True)
class Survey:
    """What is found out of a whole log before any of its keys is merged, from its narrow columns alone.

    26 bytes are in memory of each record of a snapshot, 8 of a change, and 16 more where it creates or deletes a row.
    """

    key: tuple[str, ...]
    moves: Moves = field(default_factory=Moves)
    places: set[tuple[str, int]] = field(default_factory=set)
    last_offset: int = -1
    lsn: int = 0
    _marks: list[pl.DataFrame] = field(default_factory=list)
    _changes: list[np.ndarray] = field(default_factory=list)

    def add(self, records: pl.DataFrame) -> None:
        """Takes in some records."""
        self._marks.append(marks(records))
        self._changes.append(change_offsets(records))
        self.moves.add(records, self.key)
        self.places.update(records.select(TOPIC, PARTITION).unique().rows())
        newest = records.select(pl.col(OFFSET).max(), pl.col(LSN).max()).row(0)
        self.last_offset, self.lsn = max(self.last_offset, newest[0]), max(self.lsn, newest[1])

    def epochs(self) -> tuple[Epoch, ...]:
        """The epochs of the log."""
        return epochs_of(pl.concat(self._marks), np.concatenate(self._changes)) if self._marks else ()

    def changes(self) -> int:
        """How many distinct records the log has."""
        offsets = np.sort(np.concatenate([np.empty(0, np.int64), *(one[OFFSET].to_numpy() for one in self._marks), *self._changes]))
        return int(np.count_nonzero(np.diff(offsets))) + min(1, len(offsets))
