"""Training sets: the feature vectors of decisions with the labels that were known when training was asked, in blocks of time."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.core.errors import TableMismatch, TooLittleToLearn, UserInputError
from pipeline_assets.model_lifecycle.feature_store.fingerprint import FEATURE_HASH
from pipeline_assets.spec.models import Model, Split

LABEL = "label"
LABEL_KNOWN_AT = "label_known_at"
BLOCK = "block"
BlockName = Literal["train", "validation", "holdout"]
TRAIN: BlockName = "train"
VALIDATION: BlockName = "validation"
HOLDOUT: BlockName = "holdout"
BLOCKS: tuple[BlockName, ...] = (TRAIN, VALIDATION, HOLDOUT)
INSTANT = pl.Datetime("us", "UTC")


@dataclass(frozen=True, kw_only=True)
class Block:
    """One block of a training set: decisions from `start` (inclusive) to `end` (exclusive), UTC, and how many had a true label."""

    name: str
    start: datetime
    end: datetime
    rows: int
    positives: int


@dataclass(frozen=True, kw_only=True)
class Leaks:
    """How many rows of a training set know something that could not be known: each must be 0."""

    labels_from_the_future: int
    decisions_from_the_future: int
    labels_before_their_decision: int

    @property
    def rows(self) -> int:
        """All of them together; a row that breaks two rules counts twice."""
        return self.labels_from_the_future + self.decisions_from_the_future + self.labels_before_their_decision


def build_training_set(model: Model, vectors: pa.Table, labels: pa.Table, as_of: datetime) -> pa.Table:
    """The decisions of the model's split before `as_of`, each with its label as it was known at `as_of`.

    vectors: one row per observation with the model's key, `decision_at` and `feature_hash`; any order; identical repeats count once.
    labels: the columns of the model's label; any order; of several rows of a key the one known last (at most at `as_of`) holds, and of
    several known at that time a true one. A key or label that is null matches nothing.
    Returns the columns of `vectors` and `label` (boolean), `label_known_at` (UTC) and `block` ('train', 'validation' or 'holdout'), one row
    per key, sorted by (decision_at, key); keys without a label known at `as_of` are absent.
    Raises UserInputError if `as_of` is naive, TableMismatch if a column is missing, a time is naive or a key has two different vectors, and
    TooLittleToLearn if a block has no row or only one kind of label.
    """
    instant = aware(as_of)
    starts = block_starts(model.split, instant)
    asked = _asked(model, vectors, starts[TRAIN], instant)
    rows = asked.join(_known(model, labels, instant), on=model.observations.key, how="inner", validate="1:1")
    rows = rows.with_columns(_block(model, starts)).sort(model.observations.decision_at, model.observations.key)
    table = rows.rechunk().to_arrow()
    _check_blocks(model, table, instant)
    return table


def aware(instant: datetime, name: str = "as_of") -> datetime:
    """The instant in UTC; raises UserInputError, with the `name` of what was given, if it is naive."""
    if instant.tzinfo is None:
        raise UserInputError(f"{name} {instant.isoformat()} is naive. Give a time with a zone, like {instant.isoformat()}+00:00.")
    return instant.astimezone(UTC)


def block_starts(split: Split, as_of: datetime) -> Mapping[BlockName, datetime]:
    """Where each block begins; it ends where the next begins, and the last ends at `as_of`."""
    holdout = as_of - split.holdout
    validation = holdout - split.validation
    return {TRAIN: validation - split.train, VALIDATION: validation, HOLDOUT: holdout}


def blocks(model: Model, training_set: pa.Table, as_of: datetime) -> tuple[Block, ...]:
    """The blocks of a training set in the order of time, with their rows."""
    starts = block_starts(model.split, as_of)
    ends = (*(starts[name] for name in BLOCKS[1:]), as_of)
    return tuple(_counted(training_set, name, starts[name], end) for name, end in zip(BLOCKS, ends, strict=True))


def leaks(model: Model, training_set: pa.Table, as_of: datetime) -> Leaks:
    """Looks for rows whose label or decision is not older than `as_of` allows, or whose label was known before it was asked for."""
    rows = _frame("training set", training_set, (model.observations.decision_at, LABEL_KNOWN_AT), ())
    decided, known = pl.col(model.observations.decision_at), pl.col(LABEL_KNOWN_AT)
    counts = rows.select(
        labels_from_the_future=(known > as_of).sum(),
        decisions_from_the_future=(decided >= as_of).sum(),
        labels_before_their_decision=(known <= decided).sum(),
    )
    return Leaks(**counts.row(0, named=True))


def only(training_set: pa.Table, block: BlockName) -> pa.Table:
    """The rows of one block, in their order."""
    return training_set.filter(pc.equal(training_set[BLOCK], block))


def _asked(model: Model, vectors: pa.Table, start: datetime, end: datetime) -> pl.DataFrame:
    key, decided = model.observations.key, model.observations.decision_at
    rows = _frame("vectors", vectors, (decided,), (key, FEATURE_HASH)).drop_nulls(key)
    rows = rows.filter(pl.col(decided).is_between(start, end, closed="left")).unique([key, decided, FEATURE_HASH], maintain_order=True)
    twice = rows.filter(rows[key].is_duplicated())[key]
    if len(twice):
        raise TableMismatch("vectors", f"has two different rows of {key} '{twice[0]}'", vectors.column_names)
    return rows


def _known(model: Model, labels: pa.Table, as_of: datetime) -> pl.DataFrame:
    label, key = model.label, model.observations.key
    rows = _frame("labels", labels, (label.known_at,), (label.key, label.column))
    rows = rows.filter(pl.col(label.known_at) <= as_of).drop_nulls([label.key, label.column])
    newest = rows.sort(label.known_at, label.column).unique(label.key, keep="last", maintain_order=True)
    outcome, known_at = pl.col(label.column).cast(pl.Boolean).alias(LABEL), pl.col(label.known_at).alias(LABEL_KNOWN_AT)
    return newest.select(pl.col(label.key).alias(key), outcome, known_at)


def _block(model: Model, starts: Mapping[BlockName, datetime]) -> pl.Expr:
    decided = pl.col(model.observations.decision_at)
    in_holdout, in_validation = decided >= starts[HOLDOUT], decided >= starts[VALIDATION]
    return pl.when(in_holdout).then(pl.lit(HOLDOUT)).when(in_validation).then(pl.lit(VALIDATION)).otherwise(pl.lit(TRAIN)).alias(BLOCK)


def _frame(name: str, table: pa.Table, times: tuple[str, ...], columns: tuple[str, ...]) -> pl.DataFrame:
    """The table with its times in UTC to the microsecond; raises TableMismatch if a column is missing or a time is naive."""
    missing = [column for column in (*times, *columns) if column not in table.column_names]
    if missing:
        raise TableMismatch(name, f"lacks {', '.join(missing)}", table.column_names)
    for time in times:
        kind = table.schema.field(time).type
        if not pa.types.is_timestamp(kind) or kind.tz is None:
            raise TableMismatch(name, f"has {time} as {kind}, where a time with a zone was expected", table.column_names)
    return pl.DataFrame(table).with_columns(pl.col(time).dt.convert_time_zone("UTC").cast(INSTANT) for time in times)


def _check_blocks(model: Model, training_set: pa.Table, as_of: datetime) -> None:
    for block in blocks(model, training_set, as_of):
        if block.positives in {0, block.rows}:
            span = f"{block.start.isoformat()} to {block.end.isoformat()}"
            raise TooLittleToLearn(model.name, as_of.isoformat(), block.name, block.rows, span)


def _counted(training_set: pa.Table, name: BlockName, start: datetime, end: datetime) -> Block:
    rows = only(training_set, name)
    return Block(name=name, start=start, end=end, rows=rows.num_rows, positives=pc.sum(rows[LABEL]).as_py() or 0)
