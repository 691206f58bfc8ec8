"""A change log merged by buckets of keys, and by increments: always the rows and the quarantine of one merge of the whole."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_assets.core.versions import in_table
from pipeline_assets.ingestion.sources.contracts import Checked
from pipeline_assets.ingestion.streaming.staged.checks import checked
from pipeline_assets.ingestion.streaming.staged.facts import Facts
from pipeline_assets.ingestion.streaming.staged.history import versions
from pipeline_assets.ingestion.streaming.staged.increment import difference
from pipeline_assets.ingestion.streaming.staged.keys import Moves, hashes_of, is_among
from pipeline_assets.ingestion.streaming.staged.position import Position, position_of, rules_of
from pipeline_assets.ingestion.streaming.staged.whole import Spill, Tally, merged_parts
from pipeline_assets.spec.sources import Source
from pipeline_assets_tests.followed_tables import BY_COMMIT, CONTRACT, SCHEMA, THINGS, disturbed, facts_of, played, record, surveyed, thing

FIELDS = [field.name for field in THINGS.contract.fields]
# Every third size is out of range.
BREAKING = tuple(replace(field, maximum=1) if field.name == "size" else field for field in CONTRACT.fields)
KEY = CONTRACT.primary_key


def breaking(source: Source) -> Source:
    """The source under a contract that many of its rows break."""
    return replace(source, contract=replace(source.contract, fields=BREAKING, broken_share=1.0))


def outcome(parts: list[Checked]) -> tuple[list[dict[str, Any]], list[tuple[Any, ...]]]:
    """Rows and broken rows, in an order of their own."""
    rows = [row for part in parts for row in part.good.to_pylist()]
    broken = [(row.position, row.field, row.reason, row.original) for part in parts for row in part.broken]
    return sorted(rows, key=str), sorted(broken)


def whole(log: pa.Table, source: Source) -> tuple[list[dict[str, Any]], list[tuple[Any, ...]]]:
    """What one merge of a log gives."""
    return outcome([checked(source.contract, versions(log, source, facts_of(log, source)))])


def position(log: pa.Table, source: Source) -> Position:
    """The position of a log that was merged as a whole, as a manifest keeps it."""
    survey = surveyed(log, source)
    (place,) = survey.places
    known = Position(
        rules=rules_of(source),
        snapshot=1,
        place=place,
        last_offset=survey.last_offset,
        changes=survey.changes(),
        lsn=survey.lsn,
        facts=facts_of(log, source),
    )
    read = position_of(json.loads(json.dumps(known.stored())))
    assert read == known
    return known


class Merging:
    """What is staged of a log that comes in increments: rows and broken rows with the hash of their key."""

    def __init__(self, source: Source) -> None:
        self.source, self.position, self.increments = source, None, 0
        self.rows: pl.DataFrame = pl.DataFrame()
        self.broken: list[tuple[Any, ...]] = []

    position: Position | None

    def merge(self, log: pa.Table, fresh: pa.Table) -> None:
        """Merges what came to a log, and the whole where that is not enough."""
        frame = pl.DataFrame(pl.from_arrow(fresh))
        if self.position is None or self.position.obstacle(frame, [field.name for field in in_table(self.source).fields]) is not None:
            found = checked(self.source.contract, versions(log, self.source, facts_of(log, self.source)))
            self.rows, self.position = pl.DataFrame(pl.from_arrow(found.good)), position(log, self.source)
            self.broken = [(row.position, row.field, row.reason, row.original) for row in found.broken]
            return
        self.increments += fresh.num_rows > 0
        moves = Moves()
        moves.add(pl.DataFrame(pl.from_arrow(log)), KEY)
        keys = moves.connected().with_connected(np.unique(hashes_of(fresh, KEY)))
        self._again(log.filter(pa.array(is_among(keys, hashes_of(log, KEY)))), keys, self.position.facts)
        self.position = self.position.after(frame, 2)
        assert self.position == replace(position(log, self.source), snapshot=2)

    def _again(self, records: pa.Table, keys: np.ndarray, facts: Facts) -> None:
        found = checked(self.source.contract, versions(records, self.source, facts))
        is_own = is_among(keys, hashes_of(self.rows.to_arrow(), KEY))
        added, gone = difference(self.rows.filter(pl.Series(is_own)), pl.DataFrame(pl.from_arrow(found.good)))
        self.rows = pl.concat([self.rows.join(gone, on=gone.columns, how="anti", nulls_equal=True), added])
        offsets = set(records["_offset"].to_pylist())
        kept = [row for row in self.broken if row[0] not in offsets]
        self.broken = kept + [(row.position, row.field, row.reason, row.original) for row in found.broken]

    @property
    def outcome(self) -> tuple[list[dict[str, Any]], list[tuple[Any, ...]]]:
        """Rows and broken rows, in an order of their own."""
        return sorted(self.rows.to_dicts(), key=str), sorted(self.broken)


@settings(max_examples=100)
@given(seed=st.integers(0, 10**9), steps=st.integers(1, 60), by_commit=st.booleans(), buckets=st.integers(2, 5))
def test_a_log_merged_by_buckets_is_as_merged_at_once(
    tmp_path_factory: pytest.TempPathFactory, seed: int, steps: int, buckets: int, *, by_commit: bool
) -> None:
    """Whichever keys are together, also of rows with other keys, of broken changes: the same rows, the same quarantine, each key once."""
    source = breaking(BY_COMMIT if by_commit else THINGS)
    log = disturbed(played(Random(seed), steps, by_commit=by_commit, breaks=0.2))  # noqa: S311 - rows for a test, not secrets
    survey, folder = surveyed(log, source), tmp_path_factory.mktemp("buckets")
    spill = Spill(folder=Path(folder), buckets=buckets, contract=in_table(source), connected=survey.moves.connected())
    facts = spill.write(iter(log.to_batches(max_chunksize=5)), log.schema, Facts(epochs=survey.epochs()))
    tally = Tally()

    assert facts == facts_of(log, source)
    assert outcome(list(merged_parts(spill, source, facts, tally))) == whole(log, source)
    assert tally.keys == len(set(log["id"].to_pylist()) - {None})
    assert list(folder.iterdir()) == []


@settings(max_examples=100)
@given(seed=st.integers(0, 10**9), steps=st.integers(1, 60), by_commit=st.booleans())
def test_increments_end_with_the_rows_and_the_quarantine_of_one_merge(seed: int, steps: int, *, by_commit: bool) -> None:
    """Cut anywhere, with changes emitted again, lost values, all that is broken, new snapshots: after each increment as merged at once."""
    random, source = Random(seed), breaking(BY_COMMIT if by_commit else THINGS)  # noqa: S311 - rows for a test, not secrets
    log = disturbed(played(random, steps, by_commit=by_commit, breaks=0.2))
    cuts = sorted({0, log.num_rows, *(random.randint(1, log.num_rows) for _ in range(4) if log.num_rows)})
    merging = Merging(source)
    for start, end in pairwise(cuts):
        merging.merge(log.slice(0, end), log.slice(start, end - start))

        assert merging.outcome == whole(log.slice(0, end), source)


def test_most_increments_need_no_merge_of_the_whole() -> None:
    """A log of a snapshot and then changes alone, cut at each of them: every one is merged with the keys that it touches."""
    table = played(Random(7), 0, by_commit=False)  # noqa: S311 - rows for a test, not secrets
    for _ in range(40):
        table.step(is_seen=True)
    log, merging = pa.Table.from_pylist(table.emitted, schema=SCHEMA), Merging(breaking(THINGS))
    first = log["_op"].to_pylist().index("u")
    cuts = [0, *range(first, log.num_rows + 1)]
    for start, end in pairwise(cuts):
        merging.merge(log.slice(0, end), log.slice(start, end - start))

    assert merging.increments >= len(cuts) - 4
    assert merging.outcome == whole(log, breaking(THINGS))


LOG = [record("r", 10, 0, thing("A", 1, 5)), record("r", 10, 1, thing("B", 1, 5), "last"), record("u", 20, 5, thing("A", 2, 6))]
NEXT = record("u", 30, 6, thing("A", 3, 7))


@pytest.mark.parametrize(
    ("known", "fresh", "reason"),
    [
        (LOG, NEXT, None),
        (LOG, record("r", 30, 6, thing("A", 1, 5)), "a snapshot or a truncation"),
        (LOG, record("t", 30, 6, {"id": None}), "a snapshot or a truncation"),
        (LOG, {**NEXT, "_offset": 3}, "records before those that were merged"),
        (LOG, {**NEXT, "_partition": 1}, "records from another place"),
        (LOG, {**NEXT, "text": "a"}, "a column with a value earlier than before"),
        (LOG[:1], NEXT, "a snapshot that was not complete"),
        ([LOG[2]], NEXT, "a snapshot that was not complete"),
    ],
)
def test_what_cannot_be_merged_alone_is_known(known: list[dict[str, Any]], fresh: dict[str, Any], reason: str | None) -> None:
    """Whatever changes a fact of the whole log asks for a merge of the whole."""
    reached = position(pa.Table.from_pylist(known, schema=SCHEMA), THINGS)

    assert reached.obstacle(pl.DataFrame(pl.from_arrow(pa.Table.from_pylist([fresh], schema=SCHEMA))), FIELDS) == reason


def test_keys_that_a_row_had_one_after_the_other_are_connected() -> None:
    """A to B, B to C and much later C to D are one group, wherever it is entered; a key that was only deleted is in none."""
    pairs = [("A", "B"), ("B", "C"), ("C", "D"), ("X", "Y")]
    log = [
        one
        for lsn, (old, new) in enumerate(pairs)
        for one in (record("d", lsn, 2 * lsn, {"id": old}), record("c", lsn, 2 * lsn + 1, thing(new, 1, 1)))
    ]
    alone = [record("d", 90, 90, {"id": "E"}), record("c", 91, 91, thing("F", 1, 1))]
    moves = Moves()
    moves.add(pl.DataFrame(pl.from_arrow(pa.Table.from_pylist(log + alone, schema=SCHEMA))), KEY)
    connected, hashes = moves.connected(), {key: hashes_of(pa.table({"id": [key]}), KEY) for key in "ABCDEFXY"}

    assert len({int(connected.group_of(hashes[key])[0]) for key in "ABCD"}) == 1
    assert set(connected.with_connected(hashes["D"])) == {int(hashes[key][0]) for key in "ABCD"}
    assert list(connected.with_connected(hashes["E"])) == [int(hashes["E"][0])]
    assert int(connected.group_of(hashes["F"])[0]) == int(hashes["F"][0])
