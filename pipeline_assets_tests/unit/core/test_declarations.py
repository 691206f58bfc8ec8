"""A malformed declaration fails at load and says where, what and what would be right."""

from dataclasses import replace
from datetime import timedelta

import pytest

from pipeline_assets.core.declarations import check, load_use_case
from pipeline_assets.core.errors import SpecError, UnknownName
from pipeline_assets.core.settings import ROOT
from pipeline_assets.spec.features import FeatureView, Windowed
from pipeline_assets.spec.sources import Avro, CloudEvent, CsvLine, DebeziumChange, Route
from pipeline_assets.spec.use_case import UseCase

DBT = ROOT / "dbt_project"


@pytest.fixture(scope="module")
def declared() -> UseCase:
    """The reference use case as it is declared."""
    return load_use_case("nyc_flights")


def _with_feature(use_case: UseCase, **changed: object) -> UseCase:
    """`use_case` with the first feature of its first view changed."""
    view: FeatureView = use_case.views[0]
    feature = replace(view.features[0], **changed)  # type: ignore[arg-type]
    return replace(use_case, views=(replace(view, features=(feature, *view.features[1:])), *use_case.views[1:]))


def test_the_reference_use_case_keeps_every_rule(declared: UseCase) -> None:
    """The declarations that come with the project load, and hold at least forty features."""
    features = [feature for view in declared.views for feature in view.features]

    assert sum(len(feature.windows) if isinstance(feature, Windowed) else 1 for feature in features) >= 40


def test_only_a_postgres_table_can_be_followed_by_its_changes(declared: UseCase) -> None:
    """An endpoint has no replication log; a table has, and an unknown way to load is told with those there are."""
    weather = next(source for source in declared.sources if source.contract.name == "weather")
    table = next(source for source in declared.sources if source.contract.name == "planes")
    with pytest.raises(SpecError) as endpoint:
        check(replace(declared, sources=(*declared.sources[:1], replace(weather, load="changes")), streams=()), DBT)
    with pytest.raises(SpecError) as unknown:
        check(replace(declared, sources=(replace(table, load="hourly"),), streams=()), DBT)  # type: ignore[arg-type]

    assert (endpoint.value.subject, endpoint.value.expected) == ("Source 'weather'", "a Postgres table as origin")
    assert unknown.value.expected == "one of changes, daily, snapshot"
    check(replace(declared, sources=(*(s for s in declared.sources if s is not table), replace(table, load="changes"))), DBT)


def test_an_unknown_column_names_use_case_file_object_field_and_columns(declared: UseCase) -> None:
    """A feature that reads a column its table lacks is told with the columns that the table has."""
    with pytest.raises(SpecError) as told:
        check(_with_feature(declared, column="amount"), DBT)

    assert str(told.value).startswith(
        "View 'origin_departures': feature 'flights' (use case 'nyc_flights'): column is 'amount'. Expected: one of carrier, delay_minutes,"
    )
    assert str(told.value).endswith("Fix pipeline_assets/use_cases/nyc_flights/features.py.")


@pytest.mark.parametrize(
    ("changed", "field", "expected"),
    [
        ({"aggregate": "median"}, "aggregate", "one of count, last, max"),
        ({"windows": ()}, "windows", "at least one"),
        ({"windows": (timedelta(seconds=90),)}, "windows", "whole minutes"),
        ({"windows": (timedelta(0),)}, "windows", "whole minutes"),
        ({"hop": timedelta(0)}, "hop", "positive"),
        ({"name": "Bad-Name"}, "name", "lower-case name"),
        ({"aggregate": "mean", "column": None}, "column", "one of"),
    ],
)
def test_a_malformed_window_is_refused(declared: UseCase, changed: dict[str, object], field: str, expected: str) -> None:
    """Each field of a windowed feature is held against its allowed values."""
    with pytest.raises(SpecError) as told:
        check(_with_feature(declared, **changed), DBT)

    assert told.value.field == field
    assert expected in told.value.expected


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"event_at": "nowhere"}, "event_at"),
        ({"known_at": "carrier"}, "known_at"),
        ({"primary_key": ("nowhere",)}, "primary_key"),
        ({"broken_share": 1.5}, "broken_share"),
        ({"freshness": timedelta(0)}, "freshness"),
    ],
)
def test_a_malformed_contract_is_refused(declared: UseCase, changed: dict[str, object], field: str) -> None:
    """Each term of a contract is held against its fields and its range."""
    source = declared.sources[0]
    broken = replace(source, contract=replace(source.contract, **changed))  # type: ignore[arg-type]

    with pytest.raises(SpecError) as told:
        check(replace(declared, sources=(broken, *declared.sources[1:])), DBT)

    assert told.value.field == field
    assert told.value.file == "pipeline_assets/use_cases/nyc_flights/sources.py"


COLUMNS = ("flight_id", "carrier", "tailnum", "origin", "dest", "event_at", "delay_minutes", "is_cancelled")


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"format": CsvLine(columns=COLUMNS)}, "format.columns lacks field 'recorded_at', which"),
        ({"format": CsvLine(columns=(*COLUMNS, "carrier", "recorded_at"))}, "name"),
        ({"format": CsvLine(columns=(*COLUMNS, "recorded_at"), delimiter="||")}, "delimiter"),
        ({"format": Avro(schema="{")}, "format.schema"),
        ({"format": Avro(schema='"string"')}, "format.schema"),
        ({"format": Avro(schema='{"type": "record", "name": "Departure", "fields": []}', registry="events")}, "format.registry"),
        ({"format": CloudEvent(attributes=(("id", "nowhere"),))}, "format.attributes"),
        ({"format": CloudEvent(attributes=(("Flight-Id", "flight_id"),), is_binary=True)}, "format.attributes"),
        ({"format": CloudEvent(is_binary=True), "route": Route(field="event_type", value="departure")}, "format.attributes"),
        ({"format": DebeziumChange(lsn="nowhere")}, "format"),
        ({"topic": "flight-arrivals"}, "route"),
        ({"topic": "flight.arrivals"}, "topic"),
        ({"topic": "flight-arrivals", "route": Route(field="type", value="departure")}, "route"),
    ],
)
def test_a_malformed_stream_is_refused(declared: UseCase, changed: dict[str, object], field: str) -> None:
    """A format tells of the contract's fields, and streams that share a topic tell whose event it is."""
    broken = replace(declared.streams[0], **changed)  # type: ignore[arg-type]

    with pytest.raises(SpecError) as told:
        check(replace(declared, streams=(broken, *declared.streams[1:])), DBT)

    assert told.value.field == field


@pytest.mark.parametrize(
    "changed",
    [
        {"format": CsvLine(columns=COLUMNS), "known_at_record_time": True},
        {"format": CsvLine(columns=(*COLUMNS, "recorded_at", "note"), delimiter=";")},
        {"format": Avro(schema='{"type": "record", "name": "Departure", "fields": []}', is_framed=True)},
        {"format": CloudEvent(attributes=(("id", "flight_id"),))},
        {"format": CloudEvent(attributes=(("id", "flight_id"),), is_binary=True), "route": Route(field="type", value="departure")},
        {"format": DebeziumChange(committed_at="recorded_at")},
        {"route": Route(field="type", value="departure")},
    ],
)
def test_a_stream_may_be_written_in_each_format(declared: UseCase, changed: dict[str, object]) -> None:
    """What each format asks for can be declared."""
    stream = replace(declared.streams[0], **changed)  # type: ignore[arg-type]

    check(replace(declared, streams=(stream, *declared.streams[1:])), DBT)


def test_streams_of_one_topic_are_routed_by_one_field(declared: UseCase) -> None:
    """Each with a value of its own."""
    kinds = ("departure", "arrival")
    streams = [
        replace(one, topic="flights", route=Route(field="type", value=kind)) for one, kind in zip(declared.streams, kinds, strict=True)
    ]

    check(replace(declared, streams=tuple(streams)), DBT)


def test_an_unknown_use_case_is_told_with_those_there_are() -> None:
    """A use case that is not declared is an error that lists the declared ones."""
    with pytest.raises(UnknownName) as told:
        load_use_case("nowhere")

    assert told.value.known == ("nyc_flights",)


@pytest.mark.parametrize(
    ("changed", "field"),
    [({"bins": 1}, "bins"), ({"max_drifted_share": 2.0}, "max_drifted_share"), ({"cool_down": timedelta(0)}, "cool_down")],
)
def test_a_malformed_monitor_is_refused(declared: UseCase, changed: dict[str, object], field: str) -> None:
    """Thresholds of a monitor are held against their ranges."""
    with pytest.raises(SpecError) as told:
        check(replace(declared, monitor=replace(declared.monitor, **changed)), DBT)  # type: ignore[arg-type]

    assert told.value.field == field
