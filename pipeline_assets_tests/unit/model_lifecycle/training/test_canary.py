"""A planted canary: events that say the label and are known only after every decision give exactly nothing, on the whole way."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import given

from pipeline_assets.model_lifecycle.feature_store.offline import build_vectors
from pipeline_assets.model_lifecycle.training.dataset import LABEL, build_training_set
from pipeline_assets.processing.features.catalogue import feature_columns, view_columns
from pipeline_assets.processing.features.materialize import requests_of
from pipeline_assets.processing.features.view import view_features
from pipeline_assets.spec.features import FeatureView, Latest
from pipeline_assets.spec.models import Label, Model, Observations, Split
from pipeline_assets.use_cases.nyc_flights.models import flight_delay
from pipeline_assets_tests.feature_tables import (
    DAY,
    HOUR,
    INSTANT,
    MINUTE,
    event_tables,
    events,
    every_aggregate,
    request_tables,
    view_of,
    view_table,
    windowed,
)

MICROSECOND = timedelta(microseconds=1)
AS_OF = datetime(2013, 1, 10, tzinfo=UTC)
ASKED = Observations(table="decisions", keys=("decision_id",), decision_at="decision_at", event_at="decision_at")
LABELS = Label(table="outcomes", keys=("decision_id",), column="is_late", known_at="known_at")
CANARY = view_of(windowed("count", None, DAY), windowed("rate", "is_late", DAY), Latest(name="was_late", column="is_late"))


def model_of(view: FeatureView) -> Model:
    """A model with one view and nothing else, split over eight days."""
    split = Split(train=4 * DAY, validation=2 * DAY, holdout=2 * DAY)
    return replace(flight_delay, observations=ASKED, label=LABELS, views=(view,), request_features=(), slices=(), split=split)


def nothing(view: FeatureView, rows: int) -> list[dict[str, int | None]]:
    """What features are where nothing is known: 0 for counts, null for all others."""
    return [{column.name: column.empty for column in view_columns(view)}] * rows


@given(request_tables(), event_tables())
def test_events_that_are_known_after_every_decision_give_nothing(requests: pa.Table, table: pa.Table) -> None:
    """Whenever they happened and whatever they say: counts are 0, and every other aggregate and newest value is null."""
    view = view_of(*every_aggregate((HOUR, 11 * DAY), None), superseded_at="superseded_at")
    last = pc.max(requests["decision_at"]).as_py() or AS_OF
    known = pa.array([last + MICROSECOND * (row + 1) for row in range(table.num_rows)], INSTANT)
    future = table.set_column(table.column_names.index("known_at"), "known_at", known)
    keyed = requests.append_column("decision_id", pa.array([f"d{row}" for row in range(requests.num_rows)], pa.string()))
    stored = view_table(view, requests_of(view, [(ASKED, keyed)]), future)
    vectors = build_vectors(model_of(view), keyed, {view.name: stored})

    assert view_features(view, requests, future).to_pylist() == nothing(view, requests.num_rows)
    assert vectors.select([column.name for column in view_columns(view)]).to_pylist() == nothing(view, requests.num_rows)


def learned_from(late: timedelta) -> tuple[list[dict[str, object]], list[bool]]:
    """The features and labels of a training set, where an event a minute before each decision says its label, known so much later."""
    times = [AS_OF - day * DAY - hour * HOUR for day in (1, 3, 6) for hour in (1, 2, 3, 4)]
    labels = [position % 2 == 0 for position in range(len(times))]
    ids = [f"d{position}" for position in range(len(times))]
    asked = pa.table({"decision_id": ids, "place": ids, "decision_at": pa.array(times, INSTANT)})
    canaries = [
        {"place": one, "event_at": at - MINUTE, "known_at": at - MINUTE + late, "is_late": label}
        for one, at, label in zip(ids, times, labels, strict=True)
    ]
    model = model_of(CANARY)
    stored = view_table(CANARY, requests_of(CANARY, [(ASKED, asked)]), events(*canaries))
    outcomes = pa.table({"decision_id": ids, "is_late": labels, "known_at": pa.array([at + MINUTE for at in times], INSTANT)})
    built = build_training_set(model, build_vectors(model, asked, {CANARY.name: stored}), outcomes, AS_OF)
    return built.select([column.name for column in feature_columns(model)]).to_pylist(), built[LABEL].to_pylist()


def test_a_training_set_learns_nothing_from_the_future() -> None:
    """The canary that is known in time says every label; known a microsecond after the decision, or at the end of all, it is silent."""
    sung, labels = learned_from(MINUTE)

    assert [row["v__was_late"] for row in sung] == [float(label) for label in labels]
    assert [row["v__rate_1d"] for row in sung] == [float(label) for label in labels]
    assert {row["v__count_1d"] for row in sung} == {1}
    assert learned_from(MINUTE + MICROSECOND) == (nothing(CANARY, len(labels)), labels)
    assert learned_from(20 * DAY) == (nothing(CANARY, len(labels)), labels)
