"""Several use cases in one code location: what they share is captured, landed, typed, watched and audited once."""

import json
from dataclasses import replace

import dagster as dg
import pytest

from pipeline_assets.core import names
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Able, Platform, key, without_stopped
from pipeline_assets.core.rules import sources as rules
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.batch import assets as batch
from pipeline_assets.ingestion.sources import assets as sources
from pipeline_assets.ingestion.streaming import assets as streaming
from pipeline_assets.ingestion.streaming.capture.connectors import Connector, connectors_of, topics_of
from pipeline_assets.ingestion.streaming.decoding.records import share_of
from pipeline_assets.ingestion.streaming.sensors import without_tables
from pipeline_assets.ingestion.streaming.streams import change_log, followed, record_streams, streams_behind
from pipeline_assets.spec.sources import PostgresTable
from pipeline_assets_tests.connector_configs import SNAPSHOT, settings_with
from pipeline_assets_tests.shops import DATABASE, SHOP, TOPIC, demand, model, placed, refunded, refunds, use_case

JOBS = (
    names.APPLY_CONNECTORS, names.TYPE_RECORDS, names.UPDATE_FOLLOWED_TABLES, names.AUDIT_SOURCES,
    names.build_features("demand"), names.build_features("refunds"),
)  # fmt: skip


@pytest.fixture
def settings() -> Settings:
    """Settings with a secret wherever there is one."""
    return settings_with(DATABASE)


@pytest.fixture(scope="module")
def graph() -> dg.Definitions:
    """The three rooms of ingestion on both use cases, with jobs of the names that the sensors request."""
    rooms = (sources.defs(SHOP), batch.defs(SHOP), streaming.defs(SHOP))
    jobs = [dg.define_asset_job(name) for name in JOBS]
    return dg.Definitions.merge(*rooms, dg.Definitions(resources={"platform": Platform()}, jobs=jobs))


def by_name(project: Project) -> dict[str, Connector]:
    """The connectors by their names."""
    return {connector.name: connector for connector in connectors_of(project)}


def test_the_connectors_of_both_are_as_they_were(settings: Settings) -> None:
    """One for the database and one for each topic; their configurations equal the committed snapshot."""
    found = {name: dict(one.config(settings)) for name, one in by_name(SHOP).items()}
    known = json.loads(SNAPSHOT.read_text())

    assert list(found) == ["changes-shop", "landing-orders", "landing-shop.public.customers", "landing-shop.public.products"]
    for name in ("changes-shop", "landing-orders"):
        assert found[name] == known.get(name), json.dumps(found[name], indent=2)


def test_a_database_is_captured_with_the_tables_of_all_use_cases() -> None:
    """Regression: the publication was set to the tables of one use case, which took those of the other out of it."""
    connector = by_name(SHOP)[names.changes_connector(DATABASE)]

    assert [table.table for table in connector.tables] == ["customers", "products"]
    assert [topic.name for topic in connector.topics] == ["shop.public.customers", "shop.public.products", "__debezium-heartbeat.shop"]
    assert list(connector.owners) == ["crm@shop.example", "stock@shop.example"]
    assert connector.reads == [("shop", "customers"), ("shop", "products")]


def test_a_topic_is_landed_once_for_streams_of_both(settings: Settings) -> None:
    """Both routes of the topic are in one landing, with the header that records are routed by."""
    connector = by_name(SHOP)[names.landing_connector(TOPIC)]

    assert topics_of(SHOP) == ["orders", "shop.public.customers", "shop.public.products"]
    assert (connector.topic, connector.config(settings)["topics"]) == (TOPIC, TOPIC)
    assert "ce_type" in connector.headers


def test_a_shared_stream_is_one_stream() -> None:
    """Streams and change logs appear once, and what one takes of a shared topic follows from the streams of all use cases."""
    streams = record_streams(SHOP)
    share = share_of(placed, streams)

    assert [stream.contract.name for stream in streams] == ["orders_placed", "orders_refunded", "customers_changes", "products_changes"]
    assert (share.own, share.others, share.takes_strays) == ("placed", frozenset({"refunded"}), True)
    assert not share_of(refunded, streams).takes_strays


def test_the_graph_of_both_has_each_asset_once(graph: dg.Definitions) -> None:
    """Shared assets belong to the first use case that declares them; what is of the platform belongs to none."""
    specs = {tuple(spec.key.path): spec for spec in graph.resolve_all_asset_specs()}
    homes = {key: spec.tags.get(names.USE_CASE_TAG) for key, spec in specs.items()}

    assert homes == {
        ("shop", "customers"): "demand",
        ("shop", "products"): "demand",
        ("shop", "past_orders"): "demand",
        ("connectors", "changes_shop"): None,
        ("connectors", "landing_orders"): None,
        ("connectors", "landing_shop_public_customers"): None,
        ("connectors", "landing_shop_public_products"): None,
        ("topics", "orders"): None,
        ("topics", "shop_public_customers"): None,
        ("topics", "shop_public_products"): None,
        ("landed", "orders"): None,
        ("landed", "shop_public_customers"): None,
        ("landed", "shop_public_products"): None,
        ("typed", "orders_placed"): "demand",
        ("typed", "orders_refunded"): "refunds",
        ("typed", "customers_changes"): "demand",
        ("typed", "products_changes"): "demand",
        ("staged", "past_orders"): "demand",
        ("staged", "orders_placed"): "demand",
        ("staged", "orders_refunded"): "refunds",
        ("staged", "customers"): "demand",
        ("staged", "products"): "demand",
    }


def test_a_stream_without_history_is_staged_from_its_topic_alone(graph: dg.Definitions) -> None:
    """One with a history, which no use case need list, also depends on that."""
    deps = {spec.key.to_user_string(): {dep.asset_key.to_user_string() for dep in spec.deps} for spec in graph.resolve_all_asset_specs()}

    assert deps["staged/orders_refunded"] == {"typed/orders_refunded"}
    assert deps["staged/orders_placed"] == {"typed/orders_placed", "staged/past_orders"}


def test_there_is_one_set_of_sensors_and_one_of_the_days_of_each_use_case(graph: dg.Definitions) -> None:
    """Each requests its own job; the audit has one schedule."""
    found = {sensor.name: sensor.job_name for sensor in graph.sensors or () if isinstance(sensor, dg.SensorDefinition)}

    assert found == {
        "records_landed": "type_records",
        "load_demand": "build_features_demand",
        "load_refunds": "build_features_refunds",
        "days_changed_demand": "build_features_demand",
        "days_changed_refunds": "build_features_refunds",
        "tables_changed": "update_followed_tables",
        "stream_health": "apply_connectors",
    }
    assert [schedule.name for schedule in graph.schedules or ()] == ["audit_daily"]


def test_each_topic_and_followed_table_is_audited_once() -> None:
    """And progress is checked of each connector and each typed table."""
    audited = [(check.asset_key.to_user_string(), check.name) for check in streaming.audit_checks(SHOP)]
    watched = [check.asset_key.to_user_string() for check in streaming.health_checks(SHOP)]

    assert audited == [
        ("topics/orders", "reconciled_with_source"),
        ("topics/shop_public_customers", "reconciled_with_source"),
        ("topics/shop_public_products", "reconciled_with_source"),
        ("typed/customers_changes", "reconciled_with_source"),
        ("typed/products_changes", "reconciled_with_source"),
    ]
    assert len(watched) == len(set(watched)) == 8


def test_a_use_case_reacts_to_the_streams_behind_the_tables_that_it_reads() -> None:
    """Its own, and those of a use case that reads the same table; a use case apart reacts to none of them."""
    readers = use_case("readers", (model("reader", ("reader_days", "refunds")),), (), ())
    apart = use_case("apart", (model("apart", ("elsewhere",)),), (), ())
    project = Project(use_cases=(apart, demand, readers, refunds))

    assert streams_behind(project, refunds) == (placed, refunded)
    assert streams_behind(project, readers) == (placed, refunded)
    assert streams_behind(project, apart) == ()


def test_a_table_that_cannot_be_followed_is_left_out_of_the_run_that_updates_the_others(graph: dg.Definitions) -> None:
    """With all that is made of it; nothing is left out where all are followed."""
    customers, products = (change_log(source) for source in followed(SHOP))
    repository = graph.get_repository_def()
    every, some = (set(without_tables(repository, absent).assets or ()) for absent in ((), (customers,)))

    assert every - some == {dg.AssetKey(["staged", "customers"])}
    assert dg.AssetKey(["staged", products.source.contract.name]) in some


@pytest.mark.parametrize(("check", "severity", "is_left_out"), [
    ("offsets_complete", dg.AssetCheckSeverity.ERROR, True),
    ("contract", dg.AssetCheckSeverity.ERROR, True),
    ("contract", dg.AssetCheckSeverity.WARN, False),
])  # fmt: skip
def test_a_stream_that_cannot_go_on_is_left_out_of_runs_until_it_can(
    graph: dg.Definitions, check: str, severity: dg.AssetCheckSeverity, *, is_left_out: bool
) -> None:
    """Its typed rows and their checks, and nothing else; a warning leaves nothing out, and neither does a check that has passed since."""
    job = names.build_features("demand")
    repository, stopped = graph.get_repository_def(), key(names.typed(placed.contract.name))
    made = repository.get_job(job).asset_layer
    with dg.instance_for_test() as instance:
        context = dg.build_sensor_context(instance=instance, repository_def=repository)
        found = []
        for passed in (False, True):
            seen = dg.AssetCheckEvaluation(asset_key=stopped, check_name=check, passed=passed, severity=severity)
            instance.report_runless_asset_event(seen)
            found.append(without_stopped(context, SHOP, job))
    during, after = found

    assert after == Able()
    if is_left_out:
        assert made.selected_asset_keys - set(during.assets or ()) == {stopped}
        assert {one.asset_key for one in made.asset_graph.asset_check_keys - set(during.checks or ())} == {stopped}
    else:
        assert during == Able()


def test_tables_of_odd_names_and_of_one_name_in_two_schemas_are_assets_of_their_own() -> None:
    """The graph of such a project loads, and each table, topic and landing table is one of them."""
    places = [("public", "Orders"), ("public", "orders"), ("eu", "orders"), ("sales, eu", "Größe: a;b"), ("public", "order$items")]
    first = next(source for source in followed(SHOP))
    odd = tuple(
        replace(
            first, contract=replace(first.contract, name=f"odd_{number}"), origin=PostgresTable(database="shop", schema=schema, table=table)
        )
        for number, (schema, table) in enumerate(places)
    )
    project = Project(use_cases=(replace(refunds, sources=odd, streams=()),))
    jobs = dg.Definitions(resources={"platform": Platform()}, jobs=[dg.define_asset_job(name) for name in JOBS])
    keys = {spec.key for spec in dg.Definitions.merge(sources.defs(project), streaming.defs(project), jobs).resolve_all_asset_specs()}
    tables = [key for key in keys if key.path[0] == "shop"]

    assert len(tables) == len([key for key in keys if key.path[0] == "landed"]) == len(places)
    assert dg.AssetKey(["shop", "eu__orders"]) in tables


def test_use_cases_without_streams_have_no_sensors_and_no_checks() -> None:
    """A project may read all its sources in batches."""
    project = Project(use_cases=(use_case("quiet", (), (), ()),))
    rooms = streaming.defs(project)

    assert (list(rooms.assets or ()), list(rooms.sensors or ()), list(rooms.schedules or ())) == ([], [], [])
    assert (streaming.audit_checks(project), streaming.health_checks(project)) == ([], [])


def test_streams_without_followed_tables_have_no_sensor_of_tables() -> None:
    """The job that it would request does not exist either."""
    project = Project(use_cases=(replace(refunds, sources=()),))

    assert names.TABLES_CHANGED not in {sensor.name for sensor in streaming.defs(project).sensors or ()}


def test_streams_that_share_a_topic_may_be_shared_themselves() -> None:
    """Regression: a stream that two use cases declare was taken for two streams with the same route."""
    streams = [stream for one in (demand, refunds, use_case("third", (), (), (refunded,))) for stream in one.streams]

    assert [problem for one in (demand, refunds) for problem in rules.problems(one, streams) if problem.field == "route"] == []
