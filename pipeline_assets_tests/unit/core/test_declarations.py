"""A malformed declaration fails at load and says where, what and what would be right."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline_assets.core import declarations
from pipeline_assets.core.columns import cleaned_models
from pipeline_assets.core.declarations import load_project, read_project
from pipeline_assets.core.errors import SpecError, UnknownName
from pipeline_assets.core.problems import DeclarationProblem
from pipeline_assets.core.project import Project, views_of
from pipeline_assets.core.rules import models
from pipeline_assets.core.settings import read_code_settings
from pipeline_assets.spec.features import FeatureView, Latest, Learned, RequestFeature, Windowed
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.sources import (
    Avro,
    CloudEvent,
    CsvFile,
    CsvLine,
    Cursor,
    DebeziumChange,
    Files,
    JsonLines,
    JsonObject,
    Load,
    Protobuf,
    RestEndpoint,
    Route,
)
from pipeline_assets.spec.tasks import Binary, MetricRule, Multiclass, Regression
from pipeline_assets.spec.use_case import UseCase


@pytest.fixture(scope="module")
def declared() -> UseCase:
    """The reference use case as it is declared."""
    return load_project().use_case("nyc_flights")


def check(*use_cases: UseCase) -> Project:
    """The use cases, held against the rules and the cleaned tables of this project."""
    return declarations.check(use_cases, read_code_settings().dbt_project)


def problems(*use_cases: UseCase) -> tuple[DeclarationProblem, ...]:
    """What the rules find wrong with the use cases."""
    with pytest.raises(SpecError) as refused:
        check(*use_cases)
    return refused.value.problems


def with_model(use_case: UseCase, **changed: object) -> UseCase:
    """`use_case` with its first model alone, changed."""
    return replace(use_case, models=(replace(use_case.models[0], **changed),))  # type: ignore[arg-type]


def _with_feature(use_case: UseCase, **changed: object) -> UseCase:
    """`use_case` with the first feature of its first view changed, in its first model alone."""
    model: Model = use_case.models[0]
    view: FeatureView = model.views[0]
    feature = replace(view.features[0], **changed)  # type: ignore[arg-type]
    return with_model(use_case, views=(replace(view, features=(feature, *view.features[1:])), *model.views[1:]))


def test_the_reference_use_case_keeps_every_rule(declared: UseCase) -> None:
    """The declarations that come with the project load, and hold at least forty features."""
    features = [feature for view in views_of(declared) for feature in view.features]

    assert sum(len(feature.windows) if isinstance(feature, Windowed) else 1 for feature in features) >= 40


@pytest.mark.parametrize(
    ("pattern", "written", "field"),
    [
        ("orders/*.csv", CsvFile(), "origin.pattern"),
        ("orders/%m-%d.csv", CsvFile(), "origin.pattern"),
        ("orders/%Y-%m-%d-%H.csv", CsvFile(), "origin.pattern"),
        ("/orders/%Y-%j.csv", CsvFile(), "origin.pattern"),
        ("../%Y-%j.csv", CsvFile(), "origin.pattern"),
        ("orders/%Y-%j%", CsvFile(), "origin.pattern"),
        ("%Y-%j.csv", CsvFile(delimiter=";;"), "origin.format.delimiter"),
        ("%Y-%j.csv", CsvFile(columns=("code", "name")), "origin.format.columns lacks a field, which"),
    ],
)
def test_files_of_days_have_the_day_in_their_path(declared: UseCase, pattern: str, written: CsvFile, field: str) -> None:
    """A path below the folder, with a whole day; a file without a line of names has a column for each field."""
    *sources, last = declared.sources
    files = replace(last, load="daily", origin=Files(folder="inbox", pattern=pattern, format=written))

    assert {one.field for one in problems(replace(declared, sources=(*sources, files)))} == {field}


def test_only_a_postgres_table_can_be_followed_by_its_changes(declared: UseCase) -> None:
    """An endpoint has no replication log; a table has, and an unknown way to load is reported with those there are."""
    weather = next(source for source in declared.sources if source.contract.name == "weather")
    table = next(source for source in declared.sources if source.contract.name == "planes")
    others = tuple(source for source in declared.sources if source is not table)
    endpoint = problems(replace(declared, sources=(*declared.sources[:1], replace(weather, load="changes")), streams=()))
    unknown = problems(replace(declared, sources=(replace(table, load="hourly"),), streams=()))  # type: ignore[arg-type]

    assert [(one.subject, one.expected) for one in endpoint] == [("Source 'weather'", "a Postgres table as origin")]
    assert [one.expected for one in unknown] == ["one of changes, daily, incremental, snapshot"]
    assert check(replace(declared, sources=(*others, replace(table, load="changes"))))


@pytest.mark.parametrize("load", ["daily", "snapshot"])
def test_only_a_followed_table_is_known_by_its_commits(declared: UseCase, load: Load) -> None:
    """Rows that are read in batches come without the commits that changed them: there the flag is refused, not ignored."""
    planes = next(source for source in declared.sources if source.contract.name == "planes")
    others = tuple(source for source in declared.sources if source is not planes)
    (found,) = problems(replace(declared, sources=(*others, replace(planes, load=load, known_at_commit=True))))

    assert (found.subject, found.field, found.problem) == ("Source 'planes'", "known_at_commit", "is set")
    assert found.expected == f"load='changes': loaded as '{load}', rows come without their commits"
    assert check(replace(declared, sources=(*others, replace(planes, known_at_commit=True))))


@pytest.mark.parametrize(
    ("changed", "field", "problem", "expected"),
    [
        ({"label": None}, "label", "is None", "Label"),
        ({"name": 5}, "name", "is 5", "str"),
        ({"views": "origin_departures"}, "views", "is 'origin_departures'", "a tuple of FeatureView"),
        ({"views": ("origin_departures",)}, "views", "is ('origin_departures',)", "a tuple of FeatureView"),
        ({"task": Binary}, "task", f"is {Binary!r}", "Binary or Multiclass or Regression"),
        ({"parameters": {"eta": timedelta(0)}}, "parameters", "is {'eta': datetime.timedelta(0)}", "Mapping of str, float or int or str"),
        ({"slices": ["origin"]}, "slices", "is ['origin']", "a tuple of str"),
    ],
)
def test_a_field_of_another_type_is_refused_beside_other_use_cases(
    declared: UseCase, changed: dict[str, object], field: str, problem: str, expected: str
) -> None:
    """It is named with its type before any rule trips over it, and hides nothing that is wrong with another use case."""
    found = problems(with_model(declared, **changed), replace(load_project().use_case("bundesliga"), models=()))

    assert [(one.field, one.problem, one.expected) for one in found[:1]] == [(field, problem, expected)]
    assert ("bundesliga", "models") in [(one.use_case, one.field) for one in found]


def test_two_views_of_one_name_in_a_use_case_are_refused(declared: UseCase) -> None:
    """The second model does not get the features of the first one's view by its name; the same view in both is one."""
    first, second = declared.models
    view = next(view for view in second.views if view in first.views)
    other = replace(view, features=view.features[:1])
    (found,) = problems(replace(declared, models=(first, replace(second, views=(other,)))))

    assert (found.subject, found.field) == (f"View '{view.name}'", "name")
    assert "differently" in found.problem


def test_two_sources_of_one_name_in_a_use_case_are_refused(declared: UseCase) -> None:
    """What a stream names as its history is the source that the use case lists under that name."""
    stream = next(stream for stream in declared.streams if stream.history is not None)
    assert stream.history is not None
    listed = replace(stream.history.source, contract=replace(stream.history.source.contract, version="9.0.0"))
    found = problems(replace(declared, sources=(*(one for one in declared.sources if one.contract.name != listed.contract.name), listed)))

    assert {(one.subject, one.field) for one in found} == {
        (f"Contract '{listed.contract.name}'", "name"),
        ("Origin 'airline_ops/public.flight_history'", "name"),
    }


@pytest.mark.parametrize(
    ("load", "cursor", "field"),
    [
        ("snapshot", Cursor(column="updated_at", lateness=timedelta(hours=1)), "cursor"),
        ("incremental", Cursor(column="tailnum", lateness=timedelta(hours=1)), "cursor.column"),
        ("incremental", Cursor(column="updated_at", lateness=5), "cursor.lateness"),
        ("incremental", Cursor(column="updated_at", lateness=timedelta(hours=-1)), "cursor.lateness"),
        ("incremental", Cursor(column="seats", lateness=timedelta(hours=1)), "cursor.lateness"),
        ("incremental", Cursor(column="seats", lateness=-1), "cursor.lateness"),
    ],
)
def test_a_cursor_that_finds_nothing_in_order_is_refused(declared: UseCase, load: Load, cursor: Cursor, field: str) -> None:
    """It belongs to a table that is loaded incrementally: a time with a length of time, or a whole number with one."""
    found = problems(_with_planes(declared, load=load, cursor=cursor))

    assert [one.field for one in found] == [field]


@pytest.mark.parametrize("cursor", [None, Cursor(column="updated_at", lateness=timedelta(0)), Cursor(column="seats", lateness=10)])
def test_a_table_may_be_loaded_incrementally_with_a_cursor_or_without(declared: UseCase, cursor: Cursor | None) -> None:
    """By a time, by a whole number, or by the transactions that wrote its rows."""
    assert check(_with_planes(declared, load="incremental", cursor=cursor))


HOUR = Cursor(column="updated_at", lateness=timedelta(hours=1))
SEATS = Cursor(column="seats", lateness=10)
INBOX = Files(folder="inbox", pattern="*.jsonl", format=JsonLines())
ENDPOINT = RestEndpoint(service="weather", path="/planes", records="data", query=(("from", "{since}"),))


@pytest.mark.parametrize(
    ("cursor", "query", "field"),
    [
        (None, (("from", "{since}"),), "cursor"),
        (HOUR, (("since", "{since}"), ("until", "{until}")), "origin.query 'until'"),
        (HOUR, (("expand", "lines"),), "origin.query"),
        (SEATS, (("after_id", "{since:epoch}"),), "origin.query 'after_id'"),
    ],
)
def test_an_endpoint_without_a_cursor_that_its_request_takes_is_refused(
    declared: UseCase, cursor: Cursor | None, query: tuple[tuple[str, str], ...], field: str
) -> None:
    """It needs a field to go by and a parameter that takes it; nobody knows an end, and a number has no format of a time."""
    found = problems(_with_planes(declared, load="incremental", cursor=cursor, origin=replace(ENDPOINT, query=query)))

    assert [one.field for one in found] == [field]


def test_files_with_a_cursor_are_refused(declared: UseCase) -> None:
    """What is new of them is found by their content."""
    assert [one.field for one in problems(_with_planes(declared, load="incremental", cursor=HOUR, origin=INBOX))] == ["cursor"]


@pytest.mark.parametrize(
    ("cursor", "origin"),
    [
        (HOUR, replace(ENDPOINT, query=(("from", "{since:%Y-%m-%d}"),))),
        (SEATS, replace(ENDPOINT, query=(("after_id", "{since}"), ("expand", "lines")))),
        (SEATS, replace(ENDPOINT, query=(), body=(("filter.after", "{since}"),))),
        (None, INBOX),
    ],
)
def test_endpoints_and_files_may_be_loaded_incrementally(declared: UseCase, cursor: Cursor | None, origin: RestEndpoint | Files) -> None:
    """An endpoint by a time or a number that its query or its body takes, files by their content, without a day in their path."""
    assert check(_with_planes(declared, load="incremental", cursor=cursor, origin=origin))


def _with_planes(use_case: UseCase, **changed: object) -> UseCase:
    """`use_case` with its table of planes changed."""
    sources = tuple(replace(one, **changed) if one.contract.name == "planes" else one for one in use_case.sources)  # type: ignore[arg-type]
    return replace(use_case, sources=sources)


def test_two_models_of_one_name_in_a_use_case_are_refused(declared: UseCase) -> None:
    """Even equal ones, as a version in the registry is of one model."""
    found = problems(replace(declared, models=(declared.models[0], declared.models[0])))

    assert [(one.subject, one.field) for one in found] == [("Model 'flight_delay'", "name")]


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"max_slice_loss": -0.2}, "gate.max_slice_loss"),
        ({"min_slice_rows": 0}, "gate.min_slice_rows"),
        ({"max_size_bytes": -1}, "gate.max_size_bytes"),
        ({"max_latency_ms": float("inf")}, "gate.max_latency_ms"),
        ({"min_gain_over_baseline": float("nan")}, "gate.min_gain_over_baseline"),
        ({"limits": (MetricRule(metric="log_loss", limit=float("inf")),)}, "gate.limits limit"),
    ],
)
def test_a_gate_that_could_never_decide_is_refused(declared: UseCase, changed: dict[str, object], field: str) -> None:
    """A bound that is no finite number, or that nothing could keep."""
    gate = replace(declared.models[0].gate, **changed)  # type: ignore[arg-type]
    (found,) = problems(with_model(declared, gate=gate))

    assert found.field == field


@pytest.mark.parametrize(
    ("changed", "field"),
    [({"max_psi": float("nan")}, "max_psi"), ({"min_labels": 0}, "min_labels"), ({"report_sample_rows": -5}, "report_sample_rows")],
)
def test_a_monitor_that_could_never_judge_is_refused(declared: UseCase, changed: dict[str, object], field: str) -> None:
    """A limit that nothing exceeds, no labels, and no rows for the report."""
    monitor = replace(declared.models[0].monitor, **changed)  # type: ignore[arg-type]
    (found,) = problems(with_model(declared, monitor=monitor))

    assert found.field == field


@pytest.mark.parametrize("owner", ["", "somebody", "team:", "ml-flights@nyc-flights.example ", "a b@nyc-flights.example"])
def test_an_owner_is_an_address_or_a_team(declared: UseCase, owner: str) -> None:
    """Whatever Dagster would refuse without a word of where it stands."""
    model = declared.models[0]
    view = replace(model.views[0], owner=owner)
    found = problems(replace(with_model(declared, owner=owner, views=(view,)), owner=owner))

    assert [one.subject for one in found if one.field == "owner"] == [
        "Use case 'nyc_flights'",
        "View 'origin_departures'",
        "Model 'flight_delay'",
    ]


@pytest.mark.parametrize("topic", ["", "ä b", "flights\n", "..", "x" * 250])
def test_a_topic_has_a_name_that_kafka_takes(declared: UseCase, topic: str) -> None:
    """Letters, digits and three signs."""
    found = problems(replace(declared, streams=(replace(declared.streams[0], topic=topic), *declared.streams[1:])))

    assert "topic" in [one.field for one in found]


def test_pages_keys_and_rounds_are_of_a_size_that_works(declared: UseCase) -> None:
    """An endpoint without rows a page, an entity with a key twice, a training that stops at once."""
    weather = next(source for source in declared.sources if isinstance(source.origin, RestEndpoint))
    sources = tuple(source for source in declared.sources if source is not weather)
    paged = replace(weather, origin=replace(weather.origin, page_size=0))  # type: ignore[arg-type]
    view = declared.models[0].views[0]
    doubled = replace(view, entity=replace(view.entity, keys=("origin", "origin")))

    assert [one.field for one in problems(replace(declared, sources=(*sources, paged)))] == ["origin.page_size"]
    assert "entity" in [one.field for one in problems(with_model(declared, views=(doubled,)))]
    assert [one.field for one in problems(with_model(declared, early_stopping_rounds=0))] == ["early_stopping_rounds"]


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"path": "v1/observations"}, "origin.path"),
        ({"path": "/v1/{day}"}, "origin.path"),
        ({"path": "/v1/{since"}, "origin.path"),
        ({"query": (("from", "{begin}"),)}, "origin.query 'from'"),
        ({"query": (("kind", "a"), ("from", "{since}"), ("kind", "b"))}, "origin.query 'kind'"),
        ({"body": (("kind", "a"), ("kind", "b"))}, "origin.body 'kind'"),
        ({"max_pages": 0}, "origin.max_pages"),
    ],
)
def test_an_endpoint_takes_the_bounds_of_a_day_and_nothing_else(declared: UseCase, changed: dict[str, Any], field: str) -> None:
    """Templates of path and query are read at load."""
    weather = next(source for source in declared.sources if isinstance(source.origin, RestEndpoint))
    asked = replace(weather, origin=replace(weather.origin, **changed))
    sources = tuple(asked if source is weather else source for source in declared.sources)

    assert [one.field for one in problems(replace(declared, sources=sources))] == [field]


def test_a_length_of_time_is_at_most_a_century(declared: UseCase) -> None:
    """More than that no calendar could take or add: windows, reaches and promises alike."""
    model, long = declared.models[0], timedelta(days=1_000_000)
    reach = replace(model.observations, behind=long)
    source = replace(declared.sources[0], contract=replace(declared.sources[0].contract, earliness=timedelta.max))
    windows = _with_feature(declared, windows=(long,))

    assert [one.field for one in problems(with_model(declared, observations=reach))] == ["observations.behind"]
    assert [one.field for one in problems(windows)] == ["windows"]
    assert "earliness" in [one.field for one in problems(replace(declared, sources=(source, *declared.sources[1:])))]


def test_a_field_of_a_part_is_named_by_its_path(declared: UseCase) -> None:
    """A length of time that is a number, in a window and in the label; a day that is a time; each where it stands."""
    model = declared.models[0]
    label = replace(model.label, horizon=3)  # type: ignore[arg-type]
    windowed = _with_feature(declared, windows=(timedelta(hours=1), 60)).models[0].views
    found = problems(replace(declared, first_day=datetime(2013, 1, 1, tzinfo=UTC), models=(replace(model, label=label, views=windowed),)))

    assert [(one.subject, one.field, one.expected) for one in found] == [
        ("Use case 'nyc_flights'", "first_day", "date"),
        ("Model 'flight_delay'", "label.horizon", "timedelta"),
        ("View 'origin_departures'", "features[0].windows", "a tuple of timedelta"),
    ]


def test_an_unknown_column_names_use_case_file_object_field_and_columns(declared: UseCase) -> None:
    """A feature that reads a column its table lacks is reported with the columns that the table has."""
    (found,) = problems(_with_feature(declared, column="amount"))

    assert (found.use_case, found.subject, found.field) == ("nyc_flights", "View 'origin_departures': feature 'flights'", "column")
    assert found.expected.startswith("one of carrier, delay_minutes,")


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
    found = problems(_with_feature(declared, **changed))

    assert [(one.field, expected in one.expected) for one in found] == [(field, True)]


@pytest.mark.parametrize("column", ["carrier", "nowhere"])
def test_a_source_is_superseded_at_a_time(declared: UseCase, column: str) -> None:
    """A column that is text or missing is refused with the table."""
    view: FeatureView = declared.models[0].views[0]
    found = problems(with_model(declared, views=(replace(view, source=replace(view.source, superseded_at=column)),)))

    assert (found[0].subject, found[0].field) == ("View 'origin_departures'", "source 'departures_history'")
    assert "known_at" in found[0].expected


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

    found = problems(replace(declared, sources=(broken, *declared.sources[1:])))

    assert [one.field for one in found] == [field]


LACKING = "format.message lacks field 'carrier', which"
DEPARTURE = """
syntax = "proto3";
import "google/protobuf/timestamp.proto";
message Departure {
  string flight_id = 1; string carrier = 2; string tailnum = 3; string origin = 4; string dest = 5;
  optional double delay_minutes = 6; bool is_cancelled = 7;
  google.protobuf.Timestamp event_at = 20;
  google.protobuf.Timestamp recorded_at = 21;
}
"""
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
        ({"format": JsonObject(registry="events")}, "format.registry"),
        ({"format": Protobuf(message="Departure")}, "format"),
        ({"format": Protobuf(message="Departure", registry="events")}, "format.registry"),
        ({"format": Protobuf(message="Departure", registry="events", is_framed=True, imports=(("a.proto", ""),))}, "format.imports"),
        ({"format": Protobuf(message="Departure", registry="events", is_framed=True, schema=DEPARTURE)}, "format"),
        ({"format": Protobuf(message="Departure", schema="message {")}, "format.schema"),
        ({"format": Protobuf(message="Departure", schema='import "gone.proto";')}, "format.schema"),
        ({"format": Protobuf(message="Arrival", schema=DEPARTURE)}, "format.message"),
        ({"format": Protobuf(message="Departure", schema=DEPARTURE.replace("string carrier", "string airline"))}, LACKING),
        *(
            ({"format": Protobuf(message="Departure", schema=DEPARTURE.replace("string carrier", kind))}, "format.message: field 'carrier'")
            for kind in ("int32 carrier", "bytes carrier", "repeated string carrier", "map<string, string> carrier", "Departure carrier")
        ),
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
    """A format names the contract's fields, and streams that share a topic say whose event it is."""
    broken = replace(declared.streams[0], **changed)  # type: ignore[arg-type]

    found = problems(replace(declared, streams=(broken, *declared.streams[1:])))

    assert {one.field for one in found} == {field}


@pytest.mark.parametrize(
    "changed",
    [
        {"format": CsvLine(columns=COLUMNS), "known_at_record_time": True},
        {"format": CsvLine(columns=(*COLUMNS, "recorded_at", "note"), delimiter=";")},
        {"format": Avro(schema='{"type": "record", "name": "Departure", "fields": []}', is_framed=True)},
        {"format": JsonObject(is_framed=True, registry="events")},
        {"format": Protobuf(message="Departure", schema=DEPARTURE)},
        {"format": Protobuf(message="Departure", schema=DEPARTURE, is_framed=True)},
        {"format": Protobuf(message="Departure", registry="events", is_framed=True)},
        {
            "format": Protobuf(message="Departure", schema=DEPARTURE.replace("recorded_at", "other")),
            "known_at_record_time": True,
        },
        {"format": CloudEvent(attributes=(("id", "flight_id"),))},
        {"format": CloudEvent(attributes=(("id", "flight_id"),), is_binary=True), "route": Route(field="type", value="departure")},
        {"format": DebeziumChange(committed_at="recorded_at")},
        {"route": Route(field="type", value="departure")},
    ],
)
def test_a_stream_may_be_written_in_each_format(declared: UseCase, changed: dict[str, object]) -> None:
    """What each format asks for can be declared."""
    stream = replace(declared.streams[0], **changed)  # type: ignore[arg-type]

    assert check(replace(declared, streams=(stream, *declared.streams[1:]))).streams[0] == stream


def test_streams_of_one_topic_are_routed_by_one_field(declared: UseCase) -> None:
    """Each with a value of its own."""
    kinds = ("departure", "arrival")
    streams = [
        replace(one, topic="flights", route=Route(field="type", value=kind)) for one, kind in zip(declared.streams, kinds, strict=True)
    ]

    found = check(replace(declared, streams=tuple(streams)))
    assert [stream.topic for one in found.use_cases for stream in one.streams] == ["flights", "flights"]


def test_an_unknown_use_case_is_reported_with_those_there_are() -> None:
    """A use case that is chosen and not declared is an error that lists the declared ones."""
    with pytest.raises(UnknownName) as refused:
        read_project(read_code_settings().model_copy(update={"use_cases": ("nowhere",)}))

    assert "nyc_flights" in refused.value.known


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"bins": 1}, "bins"),
        ({"max_drifted_share": 2.0}, "max_drifted_share"),
        ({"cool_down": timedelta(0)}, "cool_down"),
        ({"rules": (MetricRule(metric="mae", limit=1.0),)}, "rules names metric"),
    ],
)
def test_a_malformed_monitor_is_refused(declared: UseCase, changed: dict[str, object], field: str) -> None:
    """Thresholds of a monitor are held against their ranges, its metrics against those of the task."""
    monitor = replace(declared.models[0].monitor, **changed)  # type: ignore[arg-type]

    assert [one.field for one in problems(with_model(declared, monitor=monitor))] == [field]


@pytest.mark.parametrize(
    ("changed", "field", "expected"),
    [
        ({"task": Regression(unit="minutes")}, "label.column", "integer or number, such as delay_minutes"),
        ({"task": Multiclass(classes=("early",))}, "task.classes", "at least two classes, each once"),
        (
            {"task": Multiclass(classes=("on time", "on-time"))},
            "task.classes",
            "classes that differ in their lower-case letters and digits",
        ),
        ({"task": Multiclass(classes=("early", "late"))}, "label.column", "string, such as carrier, dest, flight_id, origin, tailnum"),
        ({"task": "binary"}, "task", "Binary or Multiclass or Regression"),
        ({"views": (), "request_features": ()}, "views", "at least one view or request feature"),
        ({"parameters": {"objective": "rank:ndcg"}}, "parameters['objective']", "one of binary:logistic"),
        ({"slices": ("decision_at",)}, "slices", "string or integer or boolean, such as carrier,"),
    ],
)
def test_a_malformed_model_is_refused(declared: UseCase, changed: dict[str, object], field: str, expected: str) -> None:
    """Task, label, inputs and parameters are held against each other and against the types of columns."""
    found = problems(with_model(declared, **changed))

    assert field in [one.field for one in found]
    assert expected in next(one.expected for one in found if one.field == field)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"keys": ()}, "observations.keys"),
        ({"keys": ("flight_id", "origin")}, "label.keys"),
        ({"ahead": timedelta(hours=-1)}, "observations.ahead"),
        ({"table": "nowhere"}, "observations"),
        ({"decision_at": "origin"}, "observations 'flights_history'"),
        ({"keys": ("planned_minutes",)}, "label.keys"),
        ({"keys": ("run_id",)}, "observations.keys"),
    ],
)
def test_malformed_observations_are_refused(declared: UseCase, changed: dict[str, object], field: str) -> None:
    """Keys, times and lead of the observations are held against their table and the label."""
    asked = replace(declared.models[0].observations, **changed)  # type: ignore[arg-type]

    assert field in [one.field for one in problems(with_model(declared, observations=asked))]


def test_a_key_of_another_kind_than_in_the_events_is_refused(declared: UseCase) -> None:
    """A number here and text there would match nothing: the error names the table, the column and the kind that is needed."""
    tables = cleaned_models(read_code_settings().dbt_project)
    (found, *_) = models.problems(declared, {**tables, "flights_history": {**tables["flights_history"], "dest": "integer"}})

    assert (found.field, found.problem) == ("observations 'flights_history'", "is 'dest' of type integer")
    assert found.expected.startswith("string, such as")


def test_types_of_features_are_checked_at_load(declared: UseCase) -> None:
    """A mean of text, text without categories, and a number with categories are refused before any run."""
    view = declared.models[0].views[0]
    wrong = (
        Windowed(name="mean_of_text", aggregate="mean", column="carrier", windows=(timedelta(hours=1),)),
        Latest(name="text", column="carrier"),
        Latest(name="number", column="delay_minutes", values=("1",)),
    )
    right = (
        Latest(name="listed", column="carrier", values=("AA", "UA")),
        Latest(name="learned", column="carrier", values=Learned(most=5)),
        Latest(name="happened", column="event_at"),
        Latest(name="flag", column="is_late"),
        Windowed(name="texts", aggregate="count", column="carrier", windows=(timedelta(hours=1),)),
    )

    found = problems(with_model(declared, views=(replace(view, features=wrong),)))

    assert [(one.subject.rpartition(" ")[2], one.field) for one in found] == [
        ("'mean_of_text'", "column"), ("'text'", "values"), ("'number'", "values"),
    ]  # fmt: skip
    assert check(with_model(declared, views=(replace(view, features=right),)))


@pytest.mark.parametrize(
    ("feature", "expected"),
    [
        (RequestFeature(name="f", column="distance_miles", description="", default="far"), "a value of type integer"),
        (RequestFeature(name="f", column="distance_miles", description="", default=float("nan")), "a value of type integer"),
        (RequestFeature(name="f", column="scheduled_departure_at", description="", default=1), "no default for"),
        (
            RequestFeature(name="f", column="scheduled_departure_at", description="", transform="hour", default=1),
            "no default beside a part",
        ),
        (RequestFeature(name="f", column="carrier", description="", values=("AA", "UA"), default="BB"), "AA, UA"),
    ],
)
def test_a_default_is_a_value_that_the_column_may_have(declared: UseCase, feature: RequestFeature, expected: str) -> None:
    """Another type, no finite number, a category that is not listed, a time: each is a problem of `default`."""
    (found,) = problems(with_model(declared, request_features=(feature,)))

    assert (found.field, expected in found.expected) == ("default", True)


@pytest.mark.parametrize(
    ("feature", "expected"),
    [
        (Windowed(name="f", aggregate="count", windows=(timedelta(hours=1),), default=1.0), "no default for a count"),
        (
            Windowed(name="f", aggregate="mean", column="delay_minutes", windows=(timedelta(days=1),), default=math.inf),
            "a finite number",
        ),
        (Latest(name="f", column="delay_minutes", default="late"), "a value of type integer"),
        (Latest(name="f", column="event_at", default=1.0), "no default for 'event_at'"),
        (Latest(name="f", column="carrier", values=("AA", "UA"), default="BB"), "AA, UA"),
    ],
)
def test_a_default_of_a_view_is_a_value_that_the_feature_may_have(declared: UseCase, feature: Windowed | Latest, expected: str) -> None:
    """A count has one already; another type, no finite number, a time and a category that is not listed are problems of `default`."""
    view = replace(declared.models[0].views[0], features=(feature,))
    found = problems(with_model(declared, views=(view,)))

    assert [(one.field, expected in one.expected) for one in found if "feature 'f'" in one.subject] == [("default", True)]


def test_a_numeric_request_feature_on_text_is_refused(declared: UseCase) -> None:
    """Text needs its categories, in a request feature as in a view."""
    feature = RequestFeature(name="dest", column="dest", description="Where it goes.")

    (found,) = problems(with_model(declared, request_features=(feature,)))

    assert (found.subject, found.expected) == (
        "Model 'flight_delay': request feature 'dest'", "the values of this text, or Learned()",
    )  # fmt: skip


def test_all_problems_are_reported_at_once(declared: UseCase) -> None:
    """Two broken objects of two kinds are two problems of one error, whose text lists both."""
    source = replace(declared.sources[0], contract=replace(declared.sources[0].contract, broken_share=2.0))
    broken = replace(with_model(declared, task=Binary(), slices=("nowhere",)), sources=(source, *declared.sources[1:]))

    with pytest.raises(SpecError) as refused:
        check(broken)

    assert [one.field for one in refused.value.problems] == ["broken_share", "slices"]
    assert str(refused.value).startswith("2 problems in the declarations:\n- Contract 'flight_schedule'")
