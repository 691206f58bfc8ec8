"""What a training set is made from: vectors at one snapshot of the lake, and labels as they stand in the warehouse."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

import pyarrow as pa

from pipeline_assets.core import names
from pipeline_assets.core.connections import arrow_warehouse
from pipeline_assets.core.errors import NotTrained, UserInputError, VersionsNotKept
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.feature_store import offline
from pipeline_assets.model_lifecycle.training.blocks import TRAIN
from pipeline_assets.model_lifecycle.training.dataset import aware, block_starts, matured_until
from pipeline_assets.processing.cleaning.retention import versions_since
from pipeline_assets.processing.lake.tables import days, snapshot_id
from pipeline_assets.spec.models import Label, Model

# Where the driver says which type of Postgres a column has.
POSTGRES_TYPE = b"ADBC:postgresql:typname"


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Vectors and labels for a training as of `as_of` (UTC), and the snapshot of each lake table read, by `<namespace>.<table>`."""

    as_of: datetime
    vectors: pa.Table
    labels: pa.Table
    snapshots: Mapping[str, int]


def read_inputs(settings: Settings, model: Model, as_of: datetime | None = None) -> Inputs:
    """Everything that a training set as of `as_of` (None: the end of the newest day that has vectors) is made from.

    Raises NotTrained if there are no vectors, VersionsNotKept if labels that counted then are no longer kept.
    """
    table = names.vectors(model.name)
    snapshot = snapshot_id(settings, table)
    instant = end_of_vectors(settings, model) if as_of is None else as_of
    if snapshot is None or instant is None:
        raise NotTrained(model.name, "vectors", "/".join(table))
    end = matured_until(model, instant)
    start, last = block_starts(model.split, end)[TRAIN], end - timedelta(microseconds=1)
    return Inputs(
        as_of=instant,
        vectors=offline.vectors(settings, model, start.date(), last.date(), snapshot_id=snapshot),
        labels=read_labels(settings, model.label, start, instant),
        snapshots={".".join(table): snapshot},
    )


def parse_instant(name: str, text: str | None) -> datetime | None:
    """The instant that `text` names in ISO 8601, in UTC (None: none was given); raises UserInputError if it is none or naive.

    name: what to call the text in the error.
    """
    if text is None:
        return None
    try:
        return aware(datetime.fromisoformat(text), name)
    except ValueError as error:
        raise UserInputError(f"{name} {text!r} is no time. Give ISO 8601 with a zone, like 2013-05-01T00:00:00+00:00.") from error


def end_of_vectors(settings: Settings, model: Model) -> datetime | None:
    """The end of the newest day (UTC) that has vectors, by which maturity is judged; None where there are none."""
    known = days(settings, names.vectors(model.name))
    return datetime.combine(known[-1] + timedelta(days=1), time(), UTC) if known else None


def read_labels(settings: Settings, label: Label, since: datetime, until: datetime) -> pa.Table:
    """Keys, label and time known of every label known from `since` to `until` (both inclusive, UTC), as it counted then; any order.

    A label of Postgres' `numeric` comes as a 64-bit float. Raises VersionsNotKept where labels that counted at `until` are no longer kept.
    """
    from psycopg.sql import SQL, Identifier

    columns = SQL(", ").join(Identifier(name) for name in dict.fromkeys((*label.keys, label.column, label.known_at)))
    superseded = SQL("null::timestamptz") if label.superseded_at is None else Identifier(label.superseded_at)
    query = SQL("select {columns} from {table} where {known_at} between $1 and $2 and coalesce({superseded} > $2, true)").format(
        columns=columns, known_at=Identifier(label.known_at), superseded=superseded, table=Identifier(*names.cleaned(label.table))
    )
    with arrow_warehouse(settings) as connection, connection.cursor() as cursor:
        cursor.execute(query.as_string(), (since, until))
        found = _with_numbers(cursor.fetch_arrow_table(), label.column)
    # Asked after the labels were read, so that versions which a build deletes meanwhile are not missed.
    kept_since = versions_since(settings, label.table)
    if kept_since is not None and until < kept_since:
        raise VersionsNotKept(".".join(names.cleaned(label.table)), until, kept_since)
    return found


def _with_numbers(labels: pa.Table, column: str) -> pa.Table:
    """The driver gives `numeric` as text, so that no digit is lost."""
    place = labels.schema.get_field_index(column)
    if (labels.schema.field(place).metadata or {}).get(POSTGRES_TYPE) != b"numeric":
        return labels
    texts = labels[column].cast(pa.string())
    return labels.set_column(place, column, texts.cast(pa.float64()))
