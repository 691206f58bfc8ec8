"""The figures of the reference use case stay what they were before there were several use cases, to the last bit.

Computed once with the version that served one use case and one model, from the same two days of January. A figure that changes on purpose
(another kernel, another library) is computed anew and committed with the reason. The hashes of definitions are those of tables that have
all versions of their rows; the values are the same.
"""

from collections.abc import Mapping
from functools import cache
from hashlib import sha256

import polars as pl
import pyarrow as pa
import pytest

from pipeline_assets.core.names import OBSERVATION_KNOWN_AT
from pipeline_assets.model_lifecycle.feature_store.offline import build_vectors
from pipeline_assets.processing.features.catalogue import definition_hash, view_hash
from pipeline_assets.processing.features.materialize import requests_of
from pipeline_assets.serving.batch.score import prediction_ids
from pipeline_assets.use_cases.nyc_flights.models import flight_delay
from pipeline_assets_tests.feature_tables import view_table
from pipeline_assets_tests.january import cleaned_tables, observations
from pipeline_assets_tests.live_models import learned

FEATURES = {
    "origin_departures": ("1043 rows, e25fb27d4efcfec7", "97e373d048e35f99"),
    "carrier_departures": ("1373 rows, 396d6b2d381cbe2e", "ba01302dd44acbc6"),
    "route_departures": ("1773 rows, eed70cf14f50d741", "8cbe1c1102441726"),
    "aircraft_departures": ("1804 rows, 5737cf47898f7eba", "af209b2d166487bc"),
    "destination_arrivals": ("1683 rows, e13e36fe7054643f", "2f33ae5fc649648b"),
    "origin_weather": ("1043 rows, 726f9c4c252c279f", "10a1c16632a605b1"),
    "aircraft_attributes": ("1804 rows, 55ae66e4c8418cef", "35a17db3ea5badf2"),
}


def _digest(table: pa.Table) -> str:
    """Rows, types and values of a table."""
    frame = pl.DataFrame(table)
    return f"{frame.height} rows, {sha256((str(frame.dtypes) + frame.write_csv()).encode()).hexdigest()[:16]}"


def _plain(table: pa.Table) -> pa.Table:
    """The table in the types in which the warehouse gives it."""
    return table.cast(pa.schema([pa.field(field.name, _type(field.type)) for field in table.schema]))


def _type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", "UTC")
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else kind


@cache
def _asked() -> pa.Table:
    return _plain(observations().to_arrow())


@cache
def _features() -> Mapping[str, pa.Table]:
    events = {name: _plain(frame.to_arrow()) for name, frame in cleaned_tables().items()}
    asked = {view.name: requests_of(view, [(flight_delay.observations, _asked())]) for view in flight_delay.views}
    return {view.name: view_table(view, asked[view.name], events[view.source.name]) for view in flight_delay.views}


@pytest.mark.parametrize("view", flight_delay.views, ids=lambda view: view.name)
def test_features_and_definitions_are_what_they_were(view: object) -> None:
    """Each view gives the same rows, and its declaration the same hash."""
    declared = next(one for one in flight_delay.views if one is view)
    rows, definition = FEATURES[declared.name]

    assert _digest(_features()[declared.name]) == rows
    assert view_hash(declared)[:16] == definition


def test_vectors_and_their_hashes_are_what_they_were() -> None:
    """The same columns in the same order, the same values, and the same hash of each row."""
    vectors = build_vectors(flight_delay, _asked(), _features())

    assert _digest(vectors.drop_columns([OBSERVATION_KNOWN_AT])) == "1807 rows, 2e5c808a34bddfa5"
    assert vectors["feature_hash"][0].as_py() == "bc64d6ce92a16048bbdc2b9441d1450dfa4401f0ae6f8471d015a5280fb0ac2e"
    assert definition_hash(flight_delay) == "3da23428279f7115324c07816142bf955a197acc6e1a84717b90cfbf8ce32782"


def test_the_model_is_what_it_was() -> None:
    """The same training set, the same model file, the same figures on the hold-out."""
    rows, candidate = learned(7)

    assert _digest(rows.drop_columns([OBSERVATION_KNOWN_AT])) == "2992 rows, fb8281b2a53ee4aa"
    assert sha256(candidate.fitted.artifact).hexdigest() == "6098ccbabf4a1e7fceee41de241df06229f5b23e012b52cad4c73f7ee7953d11"
    assert candidate.contract.metrics["roc_auc"] == 0.7201926063995029
    assert candidate.contract.metrics["baseline_roc_auc"] == 0.5665268716992855
    assert candidate.contract.metrics["calibration_error"] == 0.06711213118130245


def test_predictions_keep_their_identifiers() -> None:
    """The same model, version, key and time give the same identifier as ever."""
    asked = _asked()

    ids = prediction_ids(flight_delay, 3, [asked["flight_id"]], asked["decision_at"])

    assert ids[0].as_py() == "63342833-f390-5454-8078-b2ed3c66b04a"
    assert sha256("".join(ids.to_pylist()).encode()).hexdigest()[:16] == "5aa61ba0f8ffd77e"
