"""From a changed row and an event to a feature: change data capture and streams through real Kafka, Connect and Debezium, into the lake."""

from datetime import date, datetime, timedelta

import dagster as dg
import psycopg
import pyarrow as pa
import pytest

from pipeline_assets.core import connections, names
from pipeline_assets.core.declarations import load_project
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.streaming import sensors
from pipeline_assets.ingestion.streaming.audit.audit import verify
from pipeline_assets.ingestion.streaming.capture.connectors import topics_of
from pipeline_assets.ingestion.streaming.capture.topics import end_offsets
from pipeline_assets.ingestion.streaming.streams import change_log, followed, record_streams
from pipeline_assets.model_lifecycle.feature_store.offline import historical_features
from pipeline_assets.processing.features.cleaned import midnight
from pipeline_assets.processing.lake import tables
from pipeline_assets.spec.sources import EventStream
from pipeline_assets.use_cases.nyc_flights.features import aircraft_attributes
from pipeline_assets.use_cases.nyc_flights.sources import planes
from pipeline_assets_tests.aircraft_updates import MICROSECOND, Updates, update_aircraft
from pipeline_assets_tests.graph_runs import FLIGHTS as FLIGHTS_ALONE
from pipeline_assets_tests.graph_runs import Graph
from pipeline_assets_tests.stream_records import consume, until
from simulator.nyc_flights import data, messages

PROJECT = load_project()
FLIGHTS = PROJECT.use_case("nyc_flights")
BUILD_FEATURES = names.build_features(FLIGHTS.name)
FIRST, SEAM, LAST = date(2013, 10, 1), date(2013, 10, 4), date(2013, 10, 6)
ASKED = (date(2013, 10, 3), LAST)
SEATS = names.feature(aircraft_attributes.name, "seats")
# An aircraft that flew on a day, and one that did not; both keep the contract and were never updated.
FLOWN_AND_GONE = """
    with flown as (select tailnum from flight_schedule where scheduled_departure_at::date = %s and tailnum is not null),
    known as (select tailnum from planes where seats > 0 and year_built > 1950 and engines > 0 and updated_at < '2013-10-01Z')
    select
        (select min(tailnum) from known where tailnum in (select tailnum from flown)),
        (select min(tailnum) from known where tailnum not in (select tailnum from flown))
"""


@pytest.fixture(scope="module")
def graph(streams: Settings, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """Six days taken to the features, without the events of the last three."""
    graph = Graph(settings=streams, folder=tmp_path_factory.mktemp("dagster"))
    graph.load_world(FIRST, LAST, stream_from=SEAM)
    graph.connect()
    graph.run(BUILD_FEATURES, (FIRST, LAST))
    return graph


@pytest.fixture(scope="module")
def updates(graph: Graph) -> Updates:
    """Aircraft that were updated at times of the six days, in the topic of their changes."""
    topic = change_log(planes).topic
    before = len(consume(graph.settings, topic))
    made = update_aircraft(graph.settings.owners["airline_ops"].get_secret_value(), FIRST, LAST)
    until(lambda: len(consume(graph.settings, topic)), lambda records: records == before + made.changes)
    return made


@pytest.fixture(scope="module")
def streamed(graph: Graph, updates: Updates) -> Graph:
    """Six days of which the last three came as events, taken to the features by what the sensor asked for, with the updates of aircraft."""
    assert updates.made
    graph.send_events(SEAM, LAST)
    graph.settle()
    (request,) = graph.tick(_sensor(names.days_changed(FLIGHTS.name))).run_requests or ()
    assert request.tags.items() >= names.range_tags(*ASKED).items()
    graph.run(BUILD_FEATURES, ASKED)
    return graph


@pytest.mark.timeout(600)
@pytest.mark.parametrize("stream", FLIGHTS.streams, ids=lambda stream: stream.topic)
def test_history_and_stream_meet_without_a_gap_or_a_double(streamed: Graph, stream: EventStream) -> None:
    """Each event of the six days is in the lake once, whether it came by the history or by the topic; what was broken is in quarantine."""
    known = data.flights()
    expected, streamed_only = (messages.counts(known, stream.topic, first, LAST) for first in (FIRST, SEAM))
    with connections.warehouse(streamed.settings) as warehouse:
        (broken,) = warehouse.execute(
            "select count(*) from quarantine.rows where source = %s and partition = %s", [stream.contract.name, names.STREAM]
        ).fetchone() or (0,)

    assert tables.row_count(streamed.settings, names.lake(stream.contract.name), FIRST, LAST) == expected.good
    assert broken == sum(streamed_only.broken.values()) > 0


@pytest.mark.timeout(600)
def test_a_changed_row_becomes_a_feature(streamed: Graph) -> None:
    """An update, an insert and a delete in the source reach dbt's register, and the vectors of a day have the new value.

    What was known before stays beside it: the old number of seats until the update, the row that is gone until its deletion.
    """
    topic = change_log(planes).topic
    ends = end_offsets(streamed.settings, [topic])
    with psycopg.connect(streamed.settings.owners["airline_ops"].get_secret_value()) as operations:
        (flown, gone) = operations.execute(FLOWN_AND_GONE, [LAST]).fetchone() or ("", "")
        operations.execute("update planes set seats = 777, updated_at = %s where tailnum = %s", [midnight(LAST), flown])
        operations.execute("insert into planes (tailnum, seats, updated_at) values ('NEW1', 12, '2013-01-01T00:00:00Z')")
        operations.execute("delete from planes where tailnum = %s", [gone])
    before = _seats(streamed.settings)
    until(lambda: end_offsets(streamed.settings, [topic])[topic, 0], lambda end: end > ends[topic, 0] + 3)
    streamed.settle()
    streamed.run(names.UPDATE_FOLLOWED_TABLES, None)
    streamed.run(BUILD_FEATURES, (LAST, LAST))
    after = _seats(streamed.settings)

    assert before[flown] not in {777, None}
    assert after == {tailnum: seats for tailnum, seats in before.items() if tailnum != gone} | {flown: 777, "NEW1": 12}
    vectors = tables.read_days(streamed.settings, names.vectors(FLIGHTS.models[0].name), LAST, LAST, [SEATS]).read_all()
    assert 777 in vectors[SEATS].to_pylist()
    assert _versions(streamed.settings, flown) == [(before[flown], midnight(LAST)), (777, None)]
    ((seats, deleted_at),) = _versions(streamed.settings, gone)
    assert seats == before[gone]
    assert deleted_at is not None


@pytest.mark.timeout(600)
def test_a_past_decision_finds_what_was_known_then(streamed: Graph, updates: Updates) -> None:
    """A microsecond before each update the value before it, and at it the new one, though the table has kept its newest rows alone.

    Changes that carry no time of their own, and deletions, are known at their commit: no decision of the past sees them.
    """
    asked = [(update.tailnum, update.at - wait) for update in updates.made for wait in (MICROSECOND, timedelta(0))]
    tailnums, decided = zip(*asked, strict=True)
    others = {key: pa.nulls(len(asked), pa.string()) for key in ("origin", "carrier", "dest")}
    spine = pa.table({**others, "tailnum": tailnums, "decision_at": decided})
    found = historical_features(streamed.settings, PROJECT, FLIGHTS.models[0].name, spine)[SEATS].to_pylist()
    with connections.warehouse(streamed.settings) as warehouse:
        newest: dict[str, datetime] = dict(warehouse.execute("select tailnum, known_at from cleaned.aircraft").fetchall())

    assert len(asked) == 3_000
    assert sum(tailnum not in newest or newest[tailnum] > at for tailnum, at in asked) > 2_000
    assert found.count(None) == 0
    assert [(each, seats) for each, seats in zip(asked, found, strict=True) if seats != updates.seats(*each)] == []


@pytest.mark.timeout(600)
def test_features_of_each_flight_are_of_its_time(streamed: Graph, updates: Updates) -> None:
    """In the feature table every flight of an updated aircraft has what was known of it when the flight was asked about."""
    table = names.features(aircraft_attributes.name)
    rows = tables.read_days(streamed.settings, table, *ASKED, ["tailnum", "decision_at", SEATS]).read_all().to_pylist()
    asked = [row for row in rows if row["tailnum"] in updates.before]
    expected = [updates.seats(row["tailnum"], row["decision_at"]) for row in asked]

    assert [row[SEATS] for row in asked] == expected
    assert sum(seats != updates.before[row["tailnum"]] for row, seats in zip(asked, expected, strict=True)) > 500


@pytest.mark.timeout(600)
def test_nothing_is_lost_and_nothing_duplicated(streamed: Graph) -> None:
    """Every record of every topic stands in one place, and every followed table is in the lake as it is in its database."""
    found = list(verify(streamed.settings, PROJECT))
    records, keys = (sum(verdict.compared for verdict in found if verdict.unit == unit) for unit in ("records", "keys"))

    assert {verdict.subject: verdict.problems for verdict in found if verdict.problems} == {}
    assert len(found) == len(topics_of(PROJECT)) + len(followed(PROJECT))
    assert records > keys > 1_000


@pytest.mark.timeout(300)
def test_dagster_learns_what_came_to_topics_and_landing_tables(streamed: Graph) -> None:
    """The sensor of stream health reports how far each has come, and of the landing table the time of the newest record."""
    events = [
        event for event in streamed.tick(_sensor(names.STREAM_HEALTH)).asset_events or () if isinstance(event, dg.AssetMaterialization)
    ]
    reported = {tuple(event.asset_key.path): {label: value.value for label, value in event.metadata.items()} for event in events}
    topic = FLIGHTS.streams[0].topic
    # The events of the other use case come where its own journey has been on these services, and not otherwise.
    filled = {(one, number): end for (one, number), end in end_offsets(streamed.settings, topics_of(PROJECT)).items() if end}

    assert {one.topic for one in record_streams(FLIGHTS_ALONE)} <= {one for one, _ in filled}
    assert reported.keys() == {name(one) for name in (names.topic, names.landed) for one, _ in filled}
    records = sum(end for (one, _), end in filled.items() if one == topic)
    assert reported[names.topic(topic)]["end_offsets"] == reported[names.landed(topic)]["rows"] == records
    assert str(reported[names.landed(topic)]["watermark"]) >= str(LAST)


def _sensor(name: str) -> dg.SensorDefinition:
    """The sensor of that name."""
    return next(one for one in sensors.defs(PROJECT).sensors or () if isinstance(one, dg.SensorDefinition) and one.name == name)


def _seats(settings: Settings) -> dict[str, int]:
    """What dbt's register says of each aircraft."""
    with connections.warehouse(settings) as warehouse:
        return {str(tailnum): seats for tailnum, seats in warehouse.execute("select tailnum, seats from cleaned.aircraft").fetchall()}


def _versions(settings: Settings, tailnum: str) -> list[tuple[int, datetime | None]]:
    """The seats of an aircraft as they were known, each with until when."""
    query = "select seats, superseded_at from cleaned.aircraft_history where tailnum = %s order by known_at"
    with connections.warehouse(settings) as warehouse:
        return list(warehouse.execute(query, [tailnum]).fetchall())
