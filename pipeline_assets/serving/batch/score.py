"""Scores of whole days, kept in the warehouse: one row per decision, replaced by the range, left alone where nothing changed."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import groupby
from typing import TYPE_CHECKING
from uuid import UUID, uuid5

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.core import names
from pipeline_assets.core.errors import LakeBusy, NoLiveVersion, TableMismatch
from pipeline_assets.core.project import days_between
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.feature_store import offline
from pipeline_assets.model_lifecycle.feature_store.fingerprint import FEATURE_HASH
from pipeline_assets.model_lifecycle.registry import ledger, versions
from pipeline_assets.model_lifecycle.registry.ledger import AskedVersion
from pipeline_assets.model_lifecycle.training.dataset import decision_of
from pipeline_assets.model_lifecycle.training.judged import Scores
from pipeline_assets.model_lifecycle.training.tasks import task_kind
from pipeline_assets.processing.lake import tables
from pipeline_assets.processing.lake.changes import has_changed
from pipeline_assets.serving.batch import predictions
from pipeline_assets.serving.batch.answers import fitting, version_columns
from pipeline_assets.spec.models import Model

if TYPE_CHECKING:
    from pipeline_assets.model_lifecycle.registry.versions import LoadedModel

# The space of the identifiers of predictions; never change it, or every prediction gets another one.
PREDICTION_SPACE = UUID("5b0d4f0e-6f3c-5f0b-9b39-0c6c1a2f7a51")
# Vectors of so many days are in memory at a time: about 30,000 rows of 65 features, 16 MB, in the reference use case.
DAYS_AT_ONCE = 31
# Why a snapshot of vectors is kept: so that what was scored can be read for as long as the lake's policy says.
SCORED = "scored"
# Between the keys of a decision that has several; never change it either.
KEY_SEPARATOR = "\x1f"


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a run of batch inference did to a range of days.

    `vectors` rows were read and scored. `written` rows are new or have changed, `unchanged` ones were there with the same score and
    stay as they are, `removed` ones are gone (replaced ones included). `versions` says how many rows each version scored. `snapshot_id` is
    that of the vectors.
    """

    vectors: int
    written: int
    unchanged: int
    removed: int
    versions: Mapping[int, int]
    snapshot_id: int | None


def score_days(settings: Settings, model: Model, first: date, last: date, *, version: AskedVersion, run_id: str) -> Scored:
    """Scores the vectors of the days `first` to `last` (UTC, inclusive, of decision_at) and puts them into `predictions.<model>`.

    `champion` scores with the version that is live now, `as_of` each day with the one that was live as the day began. All days change in
    one transaction. A row that comes out as it was keeps its run and its time, so a second run changes nothing.
    Raises NotTrained if nothing is live or the version answers otherwise than declared, NoLiveVersion if a day with decisions had no live
    version, UnknownName if there are no vectors, TableMismatch if they lack a feature or hold a decision twice, or if there is a table of
    other answers; then nothing is written.
    """
    snapshot_id = tables.snapshot_id(settings, names.vectors(model.name))
    stretches = _stretches(settings, model, first, last, version)
    _check_live(settings, model, stretches, snapshot_id)
    schema = tables.read_days(settings, names.vectors(model.name), first, first, snapshot_id=snapshot_id).schema
    rows: Counter[int] = Counter()
    with predictions.replacing(settings, model, first, last, schema) as replacement:
        for stretch in stretches:
            for start, end in _spans(stretch):
                vectors = offline.vectors(settings, model, start, end, snapshot_id=snapshot_id)
                if stretch.live is not None and vectors.num_rows:
                    scores = stretch.live.scorer.score(vectors, decision_of(model))
                    replacement.add(prediction_rows(model, stretch.live.version, vectors, scores))
                    rows[stretch.live.version] += vectors.num_rows
        if snapshot_id is not None:
            tables.keep(settings, names.vectors(model.name), snapshot_id, SCORED)
        change = replacement.finish(run_id, snapshot_id)
    return _scored(rows, change, snapshot_id)


def check_unchanged(settings: Settings, model: Model, first: date, last: date, snapshot_id: int | None) -> None:
    """Raises LakeBusy if vectors of the days were made again since they were read at this snapshot (None: there were none).

    Asked at the end of a run, whose event comes after theirs: by the events alone nobody would score those vectors any more.
    """
    table = names.vectors(model.name)
    if snapshot_id is not None and has_changed(settings, table, first, last, snapshot_id):
        raise LakeBusy(".".join(table), f"days from {first} to {last} were made again while they were scored")


def prediction_rows(model: Model, version: int, vectors: pa.Table, scores: Scores) -> pa.Table:
    """One row per vector, in their order, in the columns of `predictions.columns`; the identifier follows from the other columns."""
    lacking = [name for name in version_columns(model) if name not in vectors.column_names]
    if lacking:
        problem = f"lacks {', '.join(lacking)}: its days were made before observations had versions. Materialize them again"
        raise TableMismatch(".".join(names.vectors(model.name)), problem, vectors.column_names)
    keys, decided = {key: vectors[key] for key in model.observations.keys}, vectors[model.observations.decision_at]
    table = pa.table(
        {
            predictions.PREDICTION_ID: prediction_ids(model, version, [*keys.values()], decided),
            **keys,
            predictions.DECISION_AT: decided,
            **{name: vectors[name] for name in version_columns(model)},
            **dict(task_kind(model.task).answers(scores)),
            predictions.MODEL_VERSION: pa.array(np.full(len(scores), version), pa.int64()),
            FEATURE_HASH: vectors[FEATURE_HASH],
        }
    )
    doubled = table.num_rows - pc.count_distinct(table[predictions.PREDICTION_ID]).as_py()
    if doubled:
        raise TableMismatch(".".join(names.vectors(model.name)), f"holds {doubled} decisions more than once", vectors.column_names)
    return table


def prediction_ids(model: Model, version: int, keys: Sequence[pa.ChunkedArray], decided: pa.ChunkedArray) -> pa.Array:
    """The identifier of each prediction: a UUID (version 5) of model, version, keys and decision_at, the same whenever it is made.

    keys: the columns of the keys in their order. Several keys are joined by U+001F; an integer is taken as decimal text.
    """
    times = decided.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_pylist()
    joined = (KEY_SEPARATOR.join(map(str, row)) for row in zip(*(key.to_pylist() for key in keys), strict=True))
    prefix = f"{model.name}/{version}/"
    return pa.array([str(uuid5(PREDICTION_SPACE, f"{prefix}{key}/{at}")) for key, at in zip(joined, times, strict=True)], pa.string())


@dataclass(frozen=True, kw_only=True)
class _Stretch:
    """Days that one version scores; `live` is None where no version was live."""

    first: date
    last: date
    live: "LoadedModel | None"


def _stretches(settings: Settings, model: Model, first: date, last: date, version: AskedVersion) -> list[_Stretch]:
    if version == "champion":
        return [_Stretch(first=first, last=last, live=fitting(model, versions.champion(settings, model)))]
    live = _live_by_day(settings, model, first, last)
    found = {number for _, number in live if number is not None}
    loaded = {number: fitting(model, versions.load(settings, model, number)) for number in found}
    grouped = [(number, [day for day, _ in same]) for number, same in groupby(live, key=lambda each: each[1])]
    return [_Stretch(first=same[0], last=same[-1], live=None if number is None else loaded[number]) for number, same in grouped]


def _live_by_day(settings: Settings, model: Model, first: date, last: date) -> list[tuple[date, int | None]]:
    """Each day with the version that was live as it began."""
    entries = ledger.history(settings, model)
    return [(day, ledger.live_at(entries, datetime.combine(day, time(), UTC))) for day in days_between(first, last)]


def _check_live(settings: Settings, model: Model, stretches: Sequence[_Stretch], snapshot_id: int | None) -> None:
    """Raises NoLiveVersion if there is something to score on a day without a version."""
    table = names.vectors(model.name)
    dead = [one for one in stretches if one.live is None and tables.row_count(settings, table, one.first, one.last, snapshot_id)]
    days = [day for stretch in dead for day, _ in _spans(stretch, days_at_once=1)]
    asked = [day for day in days if tables.row_count(settings, table, day, day, snapshot_id)]
    if asked:
        raise NoLiveVersion(model.name, asked)


def _spans(stretch: _Stretch, days_at_once: int = DAYS_AT_ONCE) -> Iterator[tuple[date, date]]:
    start = stretch.first
    while start <= stretch.last:
        end = min(start + timedelta(days=days_at_once - 1), stretch.last)
        yield start, end
        start = end + timedelta(days=1)


def _scored(rows: Mapping[int, int], change: predictions.Replaced, snapshot_id: int | None) -> Scored:
    scored = sum(rows.values())
    return Scored(
        vectors=scored,
        written=change.written,
        unchanged=scored - change.written,
        removed=change.removed,
        versions=dict(rows),
        snapshot_id=snapshot_id,
    )
