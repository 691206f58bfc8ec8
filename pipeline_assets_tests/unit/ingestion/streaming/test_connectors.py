"""The configurations of the connectors are snapshots, so that a change of one is seen in review."""

import json
from dataclasses import replace

import pytest

from pipeline_assets.core import names
from pipeline_assets.core.errors import SettingsMissing
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.streaming.capture import configs as connectors
from pipeline_assets.ingestion.streaming.capture.connectors import connectors_of
from pipeline_assets.spec.sources import CloudEvent, PostgresTable
from pipeline_assets.use_cases.nyc_flights import use_case
from pipeline_assets.use_cases.nyc_flights.sources import airlines, airports, flight_departures, planes
from pipeline_assets_tests.connector_configs import HIDDEN, SNAPSHOT, settings_with

CONTRACTS = {each.origin: each.contract for each in (planes, airports, airlines) if isinstance(each.origin, PostgresTable)}
TABLES = list(CONTRACTS)


@pytest.fixture
def settings() -> Settings:
    """Settings with a secret wherever there is one."""
    return settings_with("airline_ops")


def test_the_connectors_are_as_they_were(settings: Settings) -> None:
    """Their configurations equal the committed snapshot; rewrite the file when a change is meant."""
    topic = flight_departures.topic
    found = {
        names.changes_connector("airline_ops"): connectors.changes(settings, "airline_ops", TABLES, CONTRACTS),
        names.landing_connector(topic): connectors.landing(settings, topic),
    }

    known = json.loads(SNAPSHOT.read_text())

    assert found == {name: known[name] for name in found}, json.dumps(found, indent=2)


def test_headers_are_landed_where_a_stream_reads_them(settings: Settings) -> None:
    """One transform a header, between those that every landing has; all else is as without them."""
    plain, with_headers = (connectors.landing(settings, "events", headers) for headers in ((), ("content-type", "ce_id")))

    assert {name: value for name, value in with_headers.items() if plain.get(name) != value} == {
        "header.converter": "org.apache.kafka.connect.converters.ByteArrayConverter",
        "transforms": "hoist,content_type,ce_id,insert",
        **{f"transforms.{name}.type": "io.debezium.transforms.HeaderToValue" for name in ("content_type", "ce_id")},
        **{f"transforms.{name}.operation": "copy" for name in ("content_type", "ce_id")},
        "transforms.content_type.headers": "content-type",
        "transforms.content_type.fields": "content_type",
        "transforms.ce_id.headers": "ce_id",
        "transforms.ce_id.fields": "ce_id",
    }


def test_only_topics_of_events_in_binary_mode_are_landed_with_headers(settings: Settings) -> None:
    """The format of a topic's streams decides; its headers are in the configuration of the connector and in its landing table."""
    event = replace(flight_departures, format=CloudEvent(attributes=(("subject", "carrier"),), is_binary=True))
    streams = tuple(event if one is flight_departures else one for one in use_case.streams)
    project = Project(use_cases=(replace(use_case, streams=streams),))
    found = {one.topic: one for one in connectors_of(project) if one.topic is not None}
    own = found.pop(event.topic)

    assert own.headers == ("content-type", "ce_specversion", "ce_id", "ce_source", "ce_type", "ce_subject")
    assert own.config(settings) == connectors.landing(settings, event.topic, own.headers)
    assert found
    assert {(one.headers, "HeaderToValue" in str(one.config(settings))) for one in found.values()} == {((), False)}


def test_no_secret_is_in_a_configuration(settings: Settings) -> None:
    """Neither a password nor a key, nor the name of one that the worker would replace: whoever points it elsewhere gets none."""
    found = {**connectors.changes(settings, "airline_ops", TABLES), **connectors.landing(settings, flight_departures.topic)}

    assert [name for name, value in found.items() if HIDDEN in value or "${" in value] == []
    assert not any(word in name for name in found for word in ("password", "secret", "access-key"))


def test_names_of_tables_are_taken_literally(settings: Settings) -> None:
    """The connector reads them as regular expressions, in which case matters, and lists as split at signs that no name may have then."""
    table = PostgresTable(database="airline_ops", table="a.b", schema="S")
    odd = PostgresTable(database="airline_ops", table="Größe: a;b", schema="s,t")
    contracts = {odd: replace(planes.contract, primary_key=("tailnum", "a,b"))}
    config = connectors.changes(settings, "airline_ops", [table, odd], contracts)

    assert config["table.include.list"] == r"(?-i)S\.a\.b,(?-i)s\x{2c}t\.Größe\x{3a}\x{20}a\x{3b}b"
    assert config["message.key.columns"] == r"(?-i)s\x{2c}t\.Größe\x{3a}\x{20}a\x{3b}b:tailnum,a\x{2c}b"


def test_a_database_without_a_role_that_reads_changes_names_the_setting(settings: Settings) -> None:
    """The variable that is missing is in the error."""
    with pytest.raises(SettingsMissing, match="PIPELINE_REPLICATION__ORDERS"):
        connectors.changes(settings, "orders", TABLES)


def test_topics_of_changes_keep_the_order_and_every_record() -> None:
    """One partition a table, for ever; the heartbeat has a topic of its own."""
    topics = connectors.changes_topics("airline_ops", TABLES)

    assert [topic.name for topic in topics] == [
        "airline_ops.public.planes",
        "airline_ops.public.airports",
        "airline_ops.public.airlines",
        "__debezium-heartbeat.airline_ops",
    ]
    assert {(topic.partitions, topic.configs["retention.ms"]) for topic in topics} == {(1, "-1")}


@pytest.mark.parametrize(("topic", "table"), [("flight-departures", "flight_departures"), ("ops.public.Planes", "ops_public_Planes")])
def test_a_topic_lands_in_a_table_of_its_name(topic: str, table: str) -> None:
    """Signs that a table name cannot have become underscores; topics that differ in case land apart."""
    assert names.landed(topic) == ("landed", table)


def test_topics_of_changes_are_named_as_debezium_names_them() -> None:
    """A sign that no topic may have becomes an underscore; dots, hyphens and case stay."""
    assert names.changes_topic("ops", "sales-eu", "Order$ items.ü") == "ops.sales-eu.Order__items._"
