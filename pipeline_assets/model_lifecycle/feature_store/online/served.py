"""A sample of the vectors that were served: what was asked, what was answered, and the positions that it was answered from.

Kept in the online store, a declared share of them, the newest for a while. `asked` and `features` are JSON as text, so that each float
has its bits: also -0.0, which Postgres' own type would change.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from random import Random
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow as pa

from pipeline_assets.core.connections import online
from pipeline_assets.core.names import DECISION_AT
from pipeline_assets.core.own_rows import fit, reading
from pipeline_assets.core.settings import OnlineSettings
from pipeline_assets.model_lifecycle.feature_store.online.position import Position, position_from
from pipeline_assets.model_lifecycle.feature_store.spine import entity_keys
from pipeline_assets.processing.features.catalogue import definition_hash
from pipeline_assets.spec.models import Model

if TYPE_CHECKING:
    from pipeline_assets.model_lifecycle.feature_store.online.read import Served

LOG = logging.getLogger(__name__)
INSERT = "insert into online.served (model, definition, positions, asked, features) values (%s, %s, %s, %s, %s)"
TRIM = """
    delete from online.served where model = %(model)s and (served_at < now() - %(kept_for)s
        or id <= (select id from online.served where model = %(model)s order by id desc offset %(most)s limit 1))
"""
NEWEST = """
    select id, definition, positions, asked, features from online.served where model = %s order by id desc limit %s
"""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A vector that was served: the hash of the model's definition, what was asked, its features, and the positions of its feeds."""

    id: int
    definition: str
    positions: tuple[Position, ...]
    asked: Mapping[str, Any]
    features: Mapping[str, Any]


def keep_sample(settings: OnlineSettings, model: Model, asked: pa.Table, served: "Served", random: Random) -> int:
    """Keeps the declared share of some answers, each row by chance; how many were kept. A store that does not answer keeps none.

    asked: the rows as they were asked. The answer was given before, so nothing here may fail it.
    """
    rows = [row for row in range(asked.num_rows) if random.random() < model.monitor.served.share]
    if not rows:
        return 0
    try:
        with online(settings) as connection:
            write_samples(connection, model, asked.take(pa.array(rows)), served.features.take(pa.array(rows)), served.positions.values())
    except psycopg.Error as error:
        LOG.warning("%d served vectors of %s were not kept: %s", len(rows), model.name, error)
        return 0
    return len(rows)


def write_samples(connection: psycopg.Connection, model: Model, asked: pa.Table, features: pa.Table, positions: Iterable[Position]) -> None:
    """Keeps some served vectors, and removes those that are too many or too old."""
    seen, definition = json.dumps([asdict(one) for one in positions]), definition_hash(model)
    columns = dict.fromkeys((*entity_keys(model), DECISION_AT, *(feature.column for feature in model.request_features)))
    asked = asked.select([column for column in columns if column in asked.column_names])
    rows = [
        (model.name, definition, seen, json.dumps(question, default=_text), json.dumps(vector))
        for question, vector in zip(asked.to_pylist(), features.to_pylist(), strict=True)
    ]
    bounds = model.monitor.served
    with connection.cursor() as cursor:
        cursor.executemany(INSERT, rows)
        cursor.execute(TRIM, {"model": model.name, "kept_for": bounds.kept_for, "most": bounds.most})


def has_samples(settings: OnlineSettings, model: Model) -> bool:
    """Whether any vector of a model was kept."""
    with online(settings) as connection:
        return bool(newest_samples(connection, model, 1))


def newest_samples(connection: psycopg.Connection, model: Model, limit: int | None = None) -> Sequence[Sample]:
    """The newest samples of a model, up to so many (None: all), newest first; none where nothing was ever kept."""
    if connection.execute("select to_regclass('online.served') is null").fetchone() == (True,):
        return ()
    with reading("online.served"):
        return tuple(
            Sample(
                id=number,
                definition=definition,
                positions=tuple(map(position_from, positions)),
                asked=fit(dict[str, Any], json.loads(asked)),
                features=fit(dict[str, Any], json.loads(features)),
            )
            for number, definition, positions, asked, features in connection.execute(NEWEST, (model.name, limit))
        )


def remove_samples(connection: psycopg.Connection, numbers: Sequence[int]) -> None:
    """Removes samples by their numbers; those that are gone already are no error."""
    if numbers:
        connection.execute("delete from online.served where id = any(%s)", [list(numbers)])


def _text(value: object) -> str:
    if isinstance(value, date | datetime):
        return value.isoformat()
    raise TypeError(f"Nobody is asked about a {type(value).__name__}.")
