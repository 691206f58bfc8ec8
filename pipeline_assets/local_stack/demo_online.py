"""The online store of the demo: waits until its workers have taken all that came, and holds it beside the lake."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from psycopg.sql import SQL

from pipeline_assets.core import names
from pipeline_assets.core.connections import online
from pipeline_assets.core.errors import PipelineError
from pipeline_assets.core.instants import instant_at, microseconds_at
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import Settings
from pipeline_assets.local_stack.worlds import Days, Demo
from pipeline_assets.model_lifecycle.feature_store import offline
from pipeline_assets.model_lifecycle.feature_store.offline import silent
from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.codec import unpacked
from pipeline_assets.model_lifecycle.feature_store.online.compare import beside
from pipeline_assets.model_lifecycle.feature_store.online.facts import Facts, read_facts
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed, feeds_of_model
from pipeline_assets.model_lifecycle.feature_store.online.rows import entity_texts
from pipeline_assets.model_lifecycle.feature_store.spine import entity_keys
from pipeline_assets.processing.features.cleaned import midnight
from pipeline_assets.processing.features.columns import DECISION_AT, Ints
from pipeline_assets.processing.lake import tables
from pipeline_assets.spec.models import Model

if TYPE_CHECKING:
    import psycopg

CAUGHT_UP_SECONDS, POLL_SECONDS = 180.0, 0.5
ONE_DAY = timedelta(days=1)


class NotCaughtUp(PipelineError):
    """The workers of the online store have not taken all that came in time."""

    def __init__(self, found: Sequence[Facts], seconds: float) -> None:
        self.found, self.seconds = tuple(found), seconds
        behind = "; ".join(f"{one['feed']} has lag {one['lag']}" + (f" ({one['trouble']})" if one["trouble"] else "") for one in found)
        super().__init__(f"Views online have not caught up within {seconds:.0f} s: {behind}. See `pipeline logs online-worker`.")


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The online vectors of a model beside those of the lake: how many, of how many features, and in how many each differs.

    at: the newest time that was asked about. with_value: of all values those that are not null.
    """

    model: str
    at: datetime
    vectors: int
    features: int
    with_value: int
    differing: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """In the form of `demo.json`."""
        return {
            "model": self.model,
            "at": self.at.isoformat(),
            "vectors": self.vectors,
            "features": self.features,
            "values": self.vectors * self.features,
            "values_not_null": self.with_value,
            "differing_values": sum(self.differing.values()),
            "differing": self.differing,
        }


def hold_beside(settings: Settings, project: Project, feeds: Sequence[Feed], demo: Demo) -> list[Compared]:
    """Each model of the demo online beside offline, for all entities of the streamed days, once workers have taken all that came by now.

    Models with a view that is not kept online are left out. Raises NotCaughtUp.
    """
    models = [model for model in map(project.model, demo.models) if all(view.online is not None for view in model.views)]
    of_models = {model.name: feeds_of_model(tuple(feeds), model) for model in models}
    wait_until_caught_up(settings, list(dict.fromkeys(feed for found in of_models.values() for feed in found)), datetime.now(UTC))
    return [compared(settings, project, of_models[model.name], model, demo.streamed) for model in models]


def wait_until_caught_up(settings: Settings, feeds: Sequence[Feed], since: datetime, seconds: float = CAUGHT_UP_SECONDS) -> None:
    """Returns once all that had come by a time is in the states of these feeds; raises NotCaughtUp where that takes longer."""
    deadline = time.monotonic() + seconds
    while behind := [one for one in read_facts(settings, feeds, datetime.now(UTC), with_sizes=False) if not _is_caught_up(one, since)]:
        if time.monotonic() > deadline:
            raise NotCaughtUp(behind, seconds)
        time.sleep(POLL_SECONDS)


def _is_caught_up(found: Facts, since: datetime) -> bool:
    return found["caught_up_at"] is not None and datetime.fromisoformat(found["caught_up_at"]) >= since


def compared(settings: Settings, project: Project, feeds: Sequence[Feed], model: Model, days: Days) -> Compared:
    """A model online beside offline, for all entities that were asked about on some days (inclusive).

    Each is asked for twice: at the first time after these days that its states can answer for, when short windows have something in them,
    and at the newest time that any feed knows of.
    """
    asked, title = asked_on(settings, model, days), f"the entities of {days.first} to {days.last}"
    with online(settings) as connection:
        kept = {feed: store.live(connection, feed) for feed in feeds_of_model(tuple(feeds), model)}
        first = _answerable(connection, kept, model, asked, microseconds_at(midnight(days.last + ONE_DAY)))
    newest = max([int(first.max()), *(one.watermark for one in kept.values() if one.watermark is not None)])
    spine = pa.concat_tables([at_time(asked, first), at_time(asked, np.full(len(first), newest, np.int64))])
    past = offline.historical_features(settings, project, model.name, spine, name=title, on_notice=silent)
    found = beside(settings, project, feeds, model.name, spine, past, name=title)
    values = [past[column] for column in found.compared]
    return Compared(
        model=model.name,
        at=instant_at(newest),
        vectors=spine.num_rows,
        features=len(found.compared),
        with_value=sum(len(column) - column.null_count for column in values),
        differing={**found.differing},
    )


def asked_on(settings: Settings, model: Model, days: Days) -> pa.Table:
    """What was asked about on some days (inclusive): each combination of keys and columns of the request once."""
    columns = list(dict.fromkeys((*entity_keys(model), *(feature.column for feature in model.request_features))))
    rows = tables.read_days(settings, names.cleaned(model.observations.table), days.first, days.last, columns).read_all()
    return rows.group_by(columns).aggregate([]).combine_chunks()


def _answerable(connection: "psycopg.Connection", kept: Mapping[Feed, store.Kept], model: Model, asked: pa.Table, after: int) -> Ints:
    """The first time (µs) from an instant on that the states of each row's entities can answer for: the latest of their bases."""
    found = np.full(asked.num_rows, after, np.int64)
    for feed, one in kept.items():
        for slot, layout in enumerate(feed.layouts):
            if layout.view in model.views:
                rows = connection.execute(SQL("select key, state from {} where view = {}").format(one.state, slot)).fetchall()
                bases = dict(zip((key for key, _ in rows), unpacked(layout, [state for _, state in rows]).base_at.tolist(), strict=True))
                texts = entity_texts(layout.view.entity, asked, "the entities")
                found = np.maximum(found, np.array([bases.get(text, after) for text in texts], np.int64))
    return found


def at_time(asked: pa.Table, us: Ints) -> pa.Table:
    """What was asked about, each row as of its time (µs)."""
    return asked.append_column(DECISION_AT, pa.array(us, pa.int64()).cast(pa.timestamp("us", tz="UTC")))
