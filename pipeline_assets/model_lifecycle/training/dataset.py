"""Training sets: the feature vectors of decisions with the labels that were known when training was asked, in blocks of time."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.core.errors import TableMismatch, UserInputError, ValueUnfit
from pipeline_assets.core.names import OBSERVATION_KNOWN_AT
from pipeline_assets.model_lifecycle.feature_store.fingerprint import FEATURE_HASH
from pipeline_assets.model_lifecycle.training.blocks import BLOCKS, HOLDOUT, TRAIN, VALIDATION, Block, BlockName
from pipeline_assets.model_lifecycle.training.judged import Labels
from pipeline_assets.model_lifecycle.training.shortage import too_little
from pipeline_assets.model_lifecycle.training.tasks import task_kind
from pipeline_assets.spec.models import Model, Split

LABEL = "label"
LABEL_KNOWN_AT = "label_known_at"
BLOCK = "block"
INSTANT = pl.Datetime("us", "UTC")


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
    """The decisions of the model's split whose labels had matured at `as_of`, each with its label as it was known then.

    vectors: one row per observation with the model's keys, `decision_at` and `feature_hash`; any order; identical repeats count once. One
    whose observation was not known at `as_of` (`observation_known_at`, where observations have versions) does not count, as nobody could
    have learned from it then.
    labels: the columns of the model's label; any order; of several rows of a key the one known last (at most at `as_of`) holds, and of
    several known at that time the greatest (true, the last class in the alphabet). A key or label that is null matches nothing.
    Returns the columns of `vectors` and `label` (boolean, text or number), `label_known_at` (UTC) and `block` ('train', 'validation' or
    'holdout'), one row per decision, sorted by (decision_at, keys); decisions without a label known at `as_of` are absent, and so are those
    less than the label's horizon before it, whatever their label.
    Raises UserInputError if `as_of` is naive, TableMismatch if a column is missing, a time is naive, a label does not fit its task or a
    decision has two different vectors, and TooLittleToLearn if the labels of a block do not suffice.
    """
    instant = aware(as_of)
    end = matured_until(model, instant)
    starts = block_starts(model.split, end)
    known = _known_by(vectors, instant)
    asked = _asked(model, known, starts[TRAIN], end).with_columns(_block(model, starts))
    keys = list(model.observations.keys)
    rows = asked.join(known_labels(model, labels, instant, asked.schema), on=keys, how="inner", validate="m:1")
    rows = rows.select(*asked.drop(BLOCK).columns, LABEL, LABEL_KNOWN_AT, BLOCK).sort(model.observations.decision_at, *keys)
    table = rows.rechunk().to_arrow()
    _check_blocks(model, asked, table, instant)
    return table


def aware(instant: datetime, name: str = "as_of") -> datetime:
    """The instant in UTC; raises UserInputError, with the `name` of what was given, if it is naive."""
    if instant.tzinfo is None:
        raise UserInputError(f"{name} {instant.isoformat()} is naive. Give a time with a zone, like {instant.isoformat()}+00:00.")
    return instant.astimezone(UTC)


def matured_until(model: Model, as_of: datetime) -> datetime:
    """The end of the last block: labels of decisions before it have matured at `as_of`."""
    return as_of - model.label.horizon


def block_starts(split: Split, end: datetime) -> Mapping[BlockName, datetime]:
    """Where each block begins; it ends where the next begins, and the last at `end`."""
    holdout = end - split.holdout
    validation = holdout - split.validation
    return {TRAIN: validation - split.train, VALIDATION: validation, HOLDOUT: holdout}


def blocks(model: Model, training_set: pa.Table, as_of: datetime) -> tuple[Block, ...]:
    """The blocks of a training set in the order of time, with their rows."""
    end = matured_until(model, as_of)
    starts = block_starts(model.split, end)
    ends = (*(starts[name] for name in BLOCKS[1:]), end)
    return tuple(_counted(model, training_set, name, starts[name], end) for name, end in zip(BLOCKS, ends, strict=True))


def leaks(model: Model, training_set: pa.Table, as_of: datetime) -> Leaks:
    """Counts rows whose label or decision is not older than `as_of` allows, or whose label was known before its decision."""
    rows = _frame("training set", training_set, (model.observations.decision_at, LABEL_KNOWN_AT), ())
    decided, known = pl.col(model.observations.decision_at), pl.col(LABEL_KNOWN_AT)
    counts = rows.select(
        labels_from_the_future=(known > as_of).sum(),
        decisions_from_the_future=(decided >= matured_until(model, as_of)).sum(),
        labels_before_their_decision=(known <= decided).sum(),
    )
    return Leaks(**counts.row(0, named=True))


def only(training_set: pa.Table, block: BlockName) -> pa.Table:
    """The rows of one block, in their order."""
    return training_set.filter(pc.equal(training_set[BLOCK], block))


def decision_of(model: Model) -> tuple[str, ...]:
    """The columns that name a decision: its keys and its time."""
    return (*model.observations.keys, model.observations.decision_at)


def labels_of(model: Model, training_set: pa.Table) -> Labels:
    """The encoded labels of a training set, in the order of its rows."""
    return task_kind(model.task).encode(training_set[LABEL], "training set", LABEL)


def _known_by(vectors: pa.Table, as_of: datetime) -> pa.Table:
    """The vectors of observations that were known at `as_of`; all of those that do not say since when they were."""
    if OBSERVATION_KNOWN_AT not in vectors.column_names:
        return vectors
    known = pc.less_equal(vectors[OBSERVATION_KNOWN_AT], pa.scalar(as_of, pa.timestamp("us", "UTC")))
    return vectors.filter(pc.fill_null(known, fill_value=True))


def _asked(model: Model, vectors: pa.Table, start: datetime, end: datetime) -> pl.DataFrame:
    keys, decided = list(model.observations.keys), model.observations.decision_at
    rows = _frame("vectors", vectors, (decided,), (*keys, FEATURE_HASH)).drop_nulls(keys)
    rows = rows.filter(pl.col(decided).is_between(start, end, closed="left")).unique([*keys, decided, FEATURE_HASH], maintain_order=True)
    twice = rows.filter(rows.select(*keys, decided).is_duplicated()).select(keys)
    if len(twice):
        first = ", ".join(f"{key} '{value}'" for key, value in twice.row(0, named=True).items())
        raise TableMismatch("vectors", f"has two different rows of {first}", vectors.column_names)
    return rows


def known_labels(model: Model, labels: pa.Table, as_of: datetime, schema: pl.Schema) -> pl.DataFrame:
    """The label of each key that was known last at `as_of`, under the names and in the types of the observations' keys."""
    label = model.label
    rows = _frame("labels", labels, (label.known_at,), (*label.keys, label.column))
    rows = rows.filter(pl.col(label.known_at) <= as_of).drop_nulls([*label.keys, label.column])
    _check_labels(model, rows)
    newest = rows.sort(label.known_at, label.column).unique(list(label.keys), keep="last", maintain_order=True)
    keys = [_key("labels", newest, theirs, ours, schema) for theirs, ours in zip(label.keys, model.observations.keys, strict=True)]
    return newest.select(*keys, pl.col(label.column).alias(LABEL), pl.col(label.known_at).alias(LABEL_KNOWN_AT))


def _check_labels(model: Model, rows: pl.DataFrame) -> None:
    """Raises TableMismatch, with the key where it is about a value, if a label does not fit its task."""
    label = model.label
    try:
        task_kind(model.task).encode(pa.chunked_array([rows[label.column].to_arrow()]), "labels", label.column)
    except ValueUnfit as error:
        raise error.of(rows.select(label.keys).row(error.row, named=True)) from None


def _key(table: str, rows: pl.DataFrame, theirs: str, ours: str, schema: pl.Schema) -> pl.Expr:
    """A key of the labels as the observations have it; raises TableMismatch where one is text and the other is not."""
    found, expected = rows.schema[theirs], schema[ours]
    if found != expected and not (found.is_integer() and expected.is_integer()):
        raise TableMismatch(table, f"has the key {theirs} as {found}, where {expected} was expected, as in {ours}", rows.columns)
    return pl.col(theirs).cast(expected, strict=False).alias(ours)


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


def _counted(model: Model, training_set: pa.Table, name: BlockName, start: datetime, end: datetime) -> Block:
    rows = only(training_set.select([LABEL, BLOCK]), name)
    summary = task_kind(model.task).summary(labels_of(model, rows))
    return Block(name=name, start=start, end=end, rows=rows.num_rows, labels=summary)


def _check_blocks(model: Model, asked: pl.DataFrame, training_set: pa.Table, as_of: datetime) -> None:
    """Raises TooLittleToLearn for the first block whose labels do not suffice."""
    kind, delay = task_kind(model.task), _median_delay(model, training_set)
    decisions = dict(asked.group_by(BLOCK).len().iter_rows())
    for block in blocks(model, training_set, as_of):
        labels = labels_of(model, only(training_set.select([LABEL, BLOCK]), block.name))
        lacking = kind.shortage(labels, is_train=block.name == TRAIN) if block.rows else None
        error = too_little(model, as_of, block, decisions=decisions.get(block.name, 0), lacking=lacking, delay=delay)
        if error is not None:
            raise error


def _median_delay(model: Model, training_set: pa.Table) -> timedelta | None:
    """How long after their decisions the labels of a training set were known; None where there are none."""
    rows = pl.DataFrame(training_set.select([model.observations.decision_at, LABEL_KNOWN_AT]))
    delay = (rows[LABEL_KNOWN_AT] - rows[model.observations.decision_at]).median()
    return delay if isinstance(delay, timedelta) else None
