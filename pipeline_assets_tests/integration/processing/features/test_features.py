"""Feature tables on real services: what the warehouse holds becomes what the lake holds, day by day or all at once."""

from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pyarrow as pa
import pytest

from pipeline_assets.core import connections, names
from pipeline_assets.core.damage import ObjectDamaged
from pipeline_assets.core.errors import TableMismatch, UnknownName
from pipeline_assets.core.names import PARTITION_ROWS
from pipeline_assets.core.resources import Platform, key
from pipeline_assets.core.settings import Settings
from pipeline_assets.processing.features import assets
from pipeline_assets.processing.features import materialize as materialize_module
from pipeline_assets.processing.features.cleaned import read_events, read_observations, snapshots_of
from pipeline_assets.processing.features.columns import DECISION_AT
from pipeline_assets.processing.features.materialize import (
    MaterializedView,
    identity,
    materialize_view,
    read_events_of,
    requests_of,
)
from pipeline_assets.processing.features.view import feature_names, view_features
from pipeline_assets.processing.lake import scans, tables
from pipeline_assets.processing.lake.recent import Recent
from pipeline_assets.spec.features import CleanedTable, Entity, FeatureView, Latest, Learned, Windowed
from pipeline_assets.spec.models import Model, Observations
from pipeline_assets.use_cases.nyc_flights.models import flight_delay
from pipeline_assets_tests.flipped_bits import damage_two_days
from pipeline_assets_tests.january import MODEL, PROJECT, cleaned_tables, put_in_lake, store
from pipeline_assets_tests.stack_env import write_stack_env

FIRST, LAST = date(2013, 1, 8), date(2013, 1, 10)
ORIGIN, _, ROUTE, AIRCRAFT, _, WEATHER, _ = flight_delay.views
# Another model that asks about the airports, every hour.
HOURLY = replace(
    MODEL,
    name="hourly",
    observations=Observations(table="hours", keys=("number",), decision_at="asked_at", event_at="asked_at"),
    views=(ORIGIN,),
    request_features=(),
    slices=(),
)


@pytest.fixture
def warehouse(isolated: Settings) -> Settings:
    """A stack whose warehouse holds the cleaned tables."""
    store(isolated, cleaned_tables())
    return isolated


def hours() -> pl.DataFrame:
    """Decisions about each airport at each hour of the days and around them."""
    first, last = (datetime.combine(day, time(), UTC) for day in (FIRST - timedelta(days=1), LAST + timedelta(days=2)))
    times = pl.datetime_range(first, last, "1h", time_unit="us", time_zone="UTC", eager=True)
    return pl.DataFrame({"asked_at": times}).join(pl.DataFrame({"origin": ["EWR", "JFK", "LGA"]}), how="cross").with_row_index("number")


def materialize(settings: Settings, view: FeatureView, first: date, last: date, *models: Model) -> MaterializedView:
    """The view for these models; for that of the flights where none is named."""
    return materialize_view(settings, view, models or (flight_delay,), first, last)


def in_lake(settings: Settings, view: FeatureView) -> pa.Table:
    """The rows of a view's table, by time and keys."""
    order = [(column, "ascending") for column in (DECISION_AT, *view.entity.keys)]
    return tables.read_all(settings, names.features(view.name)).read_all().sort_by(order)


def test_the_lake_holds_what_the_kernel_finds_in_all_rows(warehouse: Settings) -> None:
    """Reading back only as far as a view looks loses nothing: each table equals the kernel over the whole history."""
    done = {view.name: materialize(warehouse, view, FIRST, LAST) for view in flight_delay.views}
    held = {view.name: in_lake(warehouse, view) for view in flight_delay.views}
    found = {view.name: held[view.name].select(feature_names(view)).to_pylist() for view in flight_delay.views}
    whole = {name: frame.to_arrow() for name, frame in cleaned_tables().items()}
    expected = {view.name: view_features(view, held[view.name], whole[view.source.name]).to_pylist() for view in flight_delay.views}

    assert found == expected
    assert {name: one.published.rows for name, one in done.items() if one.published} == {name: len(rows) for name, rows in found.items()}
    assert [held[view.name].column_names for view in flight_delay.views] == [[*identity(v), *feature_names(v)] for v in flight_delay.views]


def test_rows_are_the_distinct_decisions_of_the_days(warehouse: Settings) -> None:
    """One row per key and time of decision, by the day of the decision; flights without an aircraft have none."""
    asked = cleaned_tables()["flights_history"].filter(pl.col("decision_at").dt.date().is_between(FIRST, LAST))
    for view in (ORIGIN, AIRCRAFT):
        materialize(warehouse, view, FIRST, LAST)
        expected = asked.select(identity(view)).drop_nulls().unique().sort(DECISION_AT, *view.entity.keys)

        assert in_lake(warehouse, view).select(identity(view)).to_pylist() == expected.to_dicts()
        assert asked.height > expected.height


def test_days_one_by_one_equal_days_at_once(warehouse: Settings) -> None:
    """A range in one go and its days in any order leave the same rows, and the same days again change nothing."""
    for day in (LAST, FIRST, FIRST + timedelta(days=1)):
        materialize(warehouse, ROUTE, day, day)
    one_by_one = in_lake(warehouse, ROUTE)
    again = materialize(warehouse, ROUTE, FIRST, LAST)

    assert again.published is not None
    assert again.published.changed == 0
    assert (again.kept, again.computed) == (one_by_one.num_rows, 0)
    assert in_lake(warehouse, ROUTE).equals(one_by_one)


def test_a_model_that_is_added_computes_its_own_rows_alone(warehouse: Settings) -> None:
    """The rows that are there stay as they are, each new decision becomes one row, and a model that is gone takes its rows with it."""
    store(warehouse, {"hours": hours()})
    alone = materialize(warehouse, ORIGIN, FIRST, LAST, flight_delay)
    before = in_lake(warehouse, ORIGIN)
    both = materialize(warehouse, ORIGIN, FIRST, LAST, flight_delay, HOURLY)
    table = in_lake(warehouse, ORIGIN)
    events = cleaned_tables()[ORIGIN.source.name].to_arrow()
    asked = hours().filter(pl.col("asked_at").dt.date().is_between(FIRST, LAST)).select("origin", decision_at="asked_at")
    union = pl.concat([pl.DataFrame(before.select(identity(ORIGIN))), asked]).unique().sort(DECISION_AT, "origin")
    gone = materialize(warehouse, ORIGIN, FIRST, LAST, flight_delay)

    assert (alone.kept, alone.computed) == (0, before.num_rows)
    assert (both.kept, both.computed) == (before.num_rows, union.height - before.num_rows)
    assert table.select(identity(ORIGIN)).to_pylist() == union.to_dicts()
    assert table.select(feature_names(ORIGIN)).to_pylist() == view_features(ORIGIN, union.to_arrow(), events).to_pylist()
    assert (gone.kept, gone.computed) == (before.num_rows, 0)
    assert in_lake(warehouse, ORIGIN).equals(before)


def test_days_whose_events_have_changed_are_computed_again(warehouse: Settings) -> None:
    """A correction on the second day leaves the rows of the first; on the day itself and after it nothing old is kept."""
    materialize(warehouse, ORIGIN, FIRST, LAST)
    before = in_lake(warehouse, ORIGIN)
    noon = datetime.combine(FIRST + timedelta(days=1), time(12), UTC)
    with connections.warehouse(warehouse) as connection:
        connection.execute("update cleaned.departures_history set delay_minutes = delay_minutes + 7 where event_at >= %s", (noon,))
    put_in_lake(warehouse, ORIGIN.source.name)
    done = materialize(warehouse, ORIGIN, FIRST, LAST)
    after = in_lake(warehouse, ORIGIN)
    of_first_day = sum(row[DECISION_AT].date() == FIRST for row in before.to_pylist())

    assert (done.kept, done.computed) == (of_first_day, before.num_rows - of_first_day)
    assert after.slice(0, of_first_day).equals(before.slice(0, of_first_day))
    assert not after.equals(before)


def test_a_range_is_computed_again_as_it_was(warehouse: Settings) -> None:
    """At the snapshots that a run recorded the same rows come out, whatever was corrected or deleted since, of events and of decisions."""
    as_it_was = materialize(warehouse, ORIGIN, FIRST, LAST)
    before = in_lake(warehouse, ORIGIN)
    with connections.warehouse(warehouse) as connection:
        connection.execute("update cleaned.departures_history set delay_minutes = delay_minutes + 7")
        connection.execute("delete from cleaned.flights_history where origin = 'JFK'")
    for table in as_it_was.snapshots:
        put_in_lake(warehouse, table.removeprefix("cleaned."))
    corrected = materialize(warehouse, ORIGIN, FIRST, LAST)
    after = in_lake(warehouse, ORIGIN)
    again = materialize_view(warehouse, ORIGIN, [flight_delay], FIRST, LAST, as_it_was.snapshots)

    assert set(as_it_was.snapshots) == {"cleaned.departures_history", "cleaned.flights_history"}
    assert corrected.snapshots != as_it_was.snapshots == again.snapshots
    assert after.num_rows < before.num_rows
    assert in_lake(warehouse, ORIGIN).equals(before)


def test_a_snapshot_of_a_table_that_is_not_read_is_an_error(warehouse: Settings) -> None:
    """It names the tables that are; a snapshot that there is not is named with those that are kept."""
    with pytest.raises(UnknownName, match=r"read here 'cleaned\.planes'\. Known: cleaned\.departures_history, cleaned\.flights_history"):
        materialize_view(warehouse, ORIGIN, [flight_delay], FIRST, LAST, {"cleaned.planes": 1})
    with pytest.raises(UnknownName, match=r"Unknown snapshot of cleaned\.departures_history '1'"):
        materialize_view(warehouse, ORIGIN, [flight_delay], FIRST, LAST, {"cleaned.departures_history": 1})


def test_events_go_through_the_kernel_bucket_by_bucket(warehouse: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are more events than memory is meant for, the rows are the same, and no more is read of a key than it has."""
    whole = materialize(warehouse, AIRCRAFT, FIRST, LAST)
    expected = in_lake(warehouse, AIRCRAFT)
    tables.replace_days(warehouse, names.features(AIRCRAFT.name), expected.slice(0, 0), DECISION_AT, FIRST, LAST)
    monkeypatch.setattr(materialize_module, "EVENTS_AT_ONCE", whole.events // 3)
    parts = materialize(warehouse, AIRCRAFT, FIRST, LAST)

    assert parts.computed == expected.num_rows
    assert parts.events == whole.events
    assert in_lake(warehouse, AIRCRAFT).equals(expected)


def test_events_that_change_no_feature_are_taken_note_of(warehouse: Settings) -> None:
    """An event of an airport without decisions: the days are computed again and no file changes, and from then on the rows are kept."""
    before, next_day = datetime(2013, 1, 1, 12, tzinfo=UTC), FIRST + timedelta(days=1)
    with connections.warehouse(warehouse) as connection:
        connection.execute("update cleaned.departures_history set origin = 'XYZ' where event_at < %s", (before,))
    put_in_lake(warehouse, ORIGIN.source.name)
    materialize(warehouse, ORIGIN, FIRST, next_day)
    with connections.warehouse(warehouse) as connection:
        connection.execute("update cleaned.departures_history set delay_minutes = 1 where origin = 'XYZ'")
    put_in_lake(warehouse, ORIGIN.source.name)
    computed = materialize(warehouse, ORIGIN, FIRST, next_day)
    kept = materialize(warehouse, ORIGIN, FIRST, next_day)

    assert computed.published is not None
    assert (computed.kept, computed.published.changed) == (0, 0)
    assert (kept.kept, kept.computed) == (computed.computed, 0)


def test_days_that_nothing_has_changed_for_are_not_read(warehouse: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither decisions nor events are; what is said of the rows stays the same. Where one day has changed, decisions of others are not.

    A file of flights has those that leave on a day, which are decided on it, or in the last hour of the day before.
    """
    first = materialize(warehouse, ORIGIN, FIRST, LAST)
    monkeypatch.setattr(materialize_module, "read_observations", not_to_be_called)
    monkeypatch.setattr(materialize_module, "read_events", not_to_be_called)
    again = materialize(warehouse, ORIGIN, FIRST, LAST)
    monkeypatch.undo()
    asked = list[tuple[object, ...]]()

    def noted(*given: Any) -> pa.Table:
        asked.append(given[2:4])
        return read_observations(*given)

    monkeypatch.setattr(materialize_module, "read_observations", noted)
    with connections.warehouse(warehouse) as connection:
        last_day = datetime.combine(LAST, time(), UTC)
        connection.execute("update cleaned.flights_history set carrier = 'XX' where scheduled_departure_at >= %s", (last_day,))
    put_in_lake(warehouse, "flights_history")
    changed = materialize(warehouse, ORIGIN, FIRST, LAST)

    assert first.published is not None
    assert (again.events, again.computed, again.kept) == (0, 0, first.computed)
    assert again.quality == first.quality
    assert again.published == replace(first.published, snapshot_before=first.published.snapshot_after, changed=0)
    assert asked == [(LAST - timedelta(days=1), LAST)]
    assert (changed.quality, changed.computed, changed.kept) == (first.quality, 0, first.computed)


def test_days_whose_files_are_damaged_are_computed_again(warehouse: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: one file deleted and another with a wrong bit, then the days materialized again: success, and nothing was healed."""
    monkeypatch.setattr(scans, "RECENT", Recent(0))
    first = materialize(warehouse, ORIGIN, FIRST, LAST)
    before = in_lake(warehouse, ORIGIN)
    damage_two_days(warehouse, names.features(ORIGIN.name))
    with pytest.raises(ObjectDamaged, match=rf"Materialize features/{ORIGIN.name} of {FIRST} again"):
        in_lake(warehouse, ORIGIN)
    healed = materialize(warehouse, ORIGIN, FIRST, LAST)

    assert healed.published is not None
    assert (healed.published.changed, healed.quality) == (2, first.quality)
    assert 0 < healed.computed < first.computed
    assert in_lake(warehouse, ORIGIN).equals(before)
    assert materialize(warehouse, ORIGIN, FIRST, LAST).computed == 0


def not_to_be_called(*_: object, **__: object) -> None:
    """Fails the test."""
    pytest.fail("Something was read although nothing has changed.")


def test_rows_of_another_hand_are_not_kept(warehouse: Settings) -> None:
    """Rows that were put into the table by other means are of unknown inputs, and so are computed again."""
    materialize(warehouse, ORIGIN, FIRST, FIRST)
    before = in_lake(warehouse, ORIGIN)
    changed = pl.DataFrame(before).with_columns(pl.col(feature_names(ORIGIN)[0]) + 1).to_arrow()
    tables.replace_days(warehouse, names.features(ORIGIN.name), changed, DECISION_AT, FIRST, FIRST)
    again = materialize(warehouse, ORIGIN, FIRST, FIRST)

    assert (again.kept, again.computed) == (0, before.num_rows)
    assert in_lake(warehouse, ORIGIN).equals(before)


def test_a_definition_that_has_changed_is_computed_again(warehouse: Settings) -> None:
    """Another window under the same name of the view: all rows are new, though no event is."""
    materialize(warehouse, ORIGIN, FIRST, FIRST)
    changed = replace(ORIGIN, features=(*ORIGIN.features, Latest(name="newest", column="delay_minutes", ttl=timedelta(hours=1))))
    done = materialize(warehouse, changed, FIRST, FIRST)

    assert done.kept == 0
    assert done.computed == in_lake(warehouse, changed).num_rows > 0


SHELVES = Entity(name="shelf", keys=("hall", "shelf"), description="A shelf in a hall.")
DELIVERIES = FeatureView(
    name="deliveries",
    entity=SHELVES,
    source=CleanedTable(name="deliveries", event_at="at", known_at="at", order_by=("number",)),
    features=(
        Windowed(name="pieces", aggregate="sum", column="pieces", windows=(timedelta(days=1),)),
        Windowed(name="weight", aggregate="mean", column="weight", windows=(timedelta(days=1),)),
        Windowed(name="carriers", aggregate="count", column="carrier", windows=(timedelta(days=1),)),
        Latest(name="carrier", column="carrier", values=Learned()),
        Latest(name="code", column="code", values=("abc",)),
        Latest(name="age", column="made_on"),
    ),
    owner="team:test",
    description="What was brought to the shelf.",
    freshness=timedelta(days=1),
)
DECISIONS = Observations(table="deliveries", keys=("hall", "number"), decision_at="at", event_at="at")
TABLE = """
    create schema if not exists cleaned;
    create table cleaned.deliveries (
        number bigint, hall smallint, shelf integer, at timestamptz, pieces integer, weight numeric(9, 3), carrier varchar(9), code char(3),
        made_on date
    );
    insert into cleaned.deliveries values
        (1, 1, 7, '2013-01-08 10:00Z', 4, 1.5, 'red', 'abc', '2013-01-08'),
        (2, 1, 7, '2013-01-08 12:00Z', 6, 2.5, null, 'xyz', '2013-01-01'),
        (3, 2, 7, '2013-01-08 12:00Z', 1, null, 'blue', null, null)
"""


def test_keys_and_values_of_any_type_of_postgres_become_features(isolated: Settings) -> None:
    """Two integer keys, decimals, texts of all kinds and dates; the decisions are the events themselves, in one table with them."""
    with connections.warehouse(isolated) as connection:
        connection.execute(TABLE)
    put_in_lake(isolated, "deliveries", ("at", ("hall", "number")))
    done = materialize(isolated, DELIVERIES, FIRST, FIRST, replace(MODEL, observations=DECISIONS, views=(DELIVERIES,)))
    again = materialize(isolated, DELIVERIES, FIRST, FIRST, replace(MODEL, observations=DECISIONS, views=(DELIVERIES,)))
    rows = [list(row.values()) for row in in_lake(isolated, DELIVERIES).to_pylist()]
    ten, twelve = (datetime(2013, 1, 8, hour, tzinfo=UTC) for hour in (10, 12))

    assert done.quality.has_all_rows
    assert (again.kept, again.computed) == (3, 0)
    assert rows == [
        [1, 7, ten, 4.0, 1.5, 1, "red", 0, 36_000.0],
        [1, 7, twelve, 10.0, 2.0, 1, None, None, 7.5 * 86_400],
        [2, 7, twelve, 1.0, None, 1, "blue", None, None],
    ]


PRICES = FeatureView(
    name="prices",
    entity=Entity(name="product", keys=("product",), description="A product."),
    source=CleanedTable(name="prices", event_at="known_at", known_at="known_at", order_by=(), superseded_at="superseded_at"),
    features=(
        Latest(name="price", column="price"),
        Windowed(name="lowest", aggregate="min", column="price", windows=(timedelta(days=30),)),
        Windowed(name="count", aggregate="count", column=None, windows=(timedelta(days=30),)),
    ),
    owner="team:test",
    description="What the product costs.",
    freshness=timedelta(days=1),
)
# Forty products, each with a price from 1 January on that changes every five hours until it is taken off the market; decisions around each.
VERSIONS = """
    create schema if not exists cleaned;
    create table cleaned.prices as
        with changes as (
            select product, change, change * 100 + product as price,
                timestamptz '2013-01-08 00:00Z' + change * interval '5 hours' + product * interval '1 minute'
                    - (change = 0)::int * interval '7 days' as known_at
            from generate_series(1, 40) as product, generate_series(0, 4 + product % 3) as change
        )
        select product, known_at, price,
            coalesce(
                lead(known_at) over (partition by product order by known_at),
                case when product % 4 = 0 then known_at + interval '2 hours' end
            ) as superseded_at
        from changes;
    create table cleaned.orders as
        select row_number() over (order by product, ordered_at) as number, product, ordered_at
        from (select distinct product, moment + nudge * interval '1 microsecond' as ordered_at
              from cleaned.prices, lateral (values (known_at), (superseded_at)) as moments(moment), generate_series(-1, 1) as nudge
              where moment >= '2013-01-08Z') as asked
"""


def test_every_decision_sees_the_version_of_its_time(isolated: Settings) -> None:
    """A decision a microsecond before, at and after each change of a price finds the price that was known then, and none after the last."""
    with connections.warehouse(isolated) as connection:
        connection.execute(VERSIONS)
        expected = connection.execute(
            "select product, ordered_at, (select price from cleaned.prices as seen where seen.product = asked.product "
            "and known_at <= ordered_at and ordered_at < coalesce(superseded_at, 'infinity')) from cleaned.orders as asked"
        ).fetchall()
    put_in_lake(isolated, "prices")
    put_in_lake(isolated, "orders", ("ordered_at", ("number",)))
    orders = Observations(table="orders", keys=("number",), decision_at="ordered_at", event_at="ordered_at")
    done = materialize(isolated, PRICES, date(2013, 1, 8), date(2013, 1, 10), replace(MODEL, observations=orders, views=(PRICES,)))
    rows = in_lake(isolated, PRICES).to_pylist()
    found = {(row["product"], row[DECISION_AT]): row["prices__price"] for row in rows}

    assert done.quality.has_all_rows
    assert found == {(product, at): price for product, at, price in expected}
    assert [price for _, _, price in expected].count(None) == 2 * 10
    assert all((row["prices__count_30d"] == 0) == (row["prices__price"] is None) for row in rows)
    assert all(row["prices__lowest_30d"] == row["prices__price"] for row in rows)


def test_a_day_without_decisions_is_empty(warehouse: Settings) -> None:
    """No flight, no row; and the day counts as materialized."""
    done = materialize(warehouse, ROUTE, date(2013, 2, 1), date(2013, 2, 1))

    assert done.published is not None
    assert (done.quality.asked, done.published.rows) == (0, 0)


@pytest.mark.parametrize("view", [ORIGIN, flight_delay.views[-1]], ids=lambda view: view.name)
def test_a_source_that_never_had_a_row_gives_what_no_event_gives(isolated: Settings, view: FeatureView) -> None:
    """A table by the day and a register, both built and without a row: the decisions are answered, and nothing is computed twice."""
    known = cleaned_tables()
    store(isolated, {**known, view.source.name: known[view.source.name].clear()})
    done, again = materialize(isolated, view, FIRST, LAST), materialize(isolated, view, FIRST, LAST)
    rows = pl.DataFrame(in_lake(isolated, view)).select(feature_names(view))

    assert (done.events, done.computed, again.kept) == (0, done.quality.asked, done.quality.asked)
    assert done.quality.has_all_rows
    assert done.quality.asked > 0
    assert all(set(column) <= {0, None} for column in rows)


def test_events_are_read_no_further_than_the_view_looks(warehouse: Settings) -> None:
    """The weather of a day needs what a day and an hour before it begins, from the beginning of that day on, and nothing after it."""
    snapshots = snapshots_of(warehouse, [names.cleaned(WEATHER.source.name)])
    midnight = datetime.combine(LAST, time(), UTC)
    events = read_events_of(warehouse, WEATHER.source, [WEATHER], (midnight, midnight), snapshots).read_all()
    observed = pl.Series(events.column("observed_at"))

    assert observed.min() == midnight - timedelta(days=2)
    assert observed.max() == midnight + timedelta(hours=23)
    assert events.schema.field("observed_at").type == pa.timestamp("us", tz="UTC")


def test_events_have_each_column_once(warehouse: Settings) -> None:
    """Columns that are asked for twice, or are also a time or a tie-breaker, come once."""
    asked = ["origin", "flight_id", "delay_minutes", "delay_minutes", "known_at"]
    snapshots = snapshots_of(warehouse, [names.cleaned(ROUTE.source.name)])
    second = datetime(2013, 1, 2, tzinfo=UTC)
    events = read_events(warehouse, ROUTE.source, asked, (None, second), snapshots, second)

    assert events.schema.names == ["origin", "flight_id", "delay_minutes", "known_at", "event_at", "superseded_at"]


def test_observations_are_those_of_the_days_in_order(warehouse: Settings) -> None:
    """All columns of the flights whose decision falls in the days, by time and identifier."""
    snapshots = snapshots_of(warehouse, [names.cleaned(flight_delay.observations.table)])
    found = pl.DataFrame(read_observations(warehouse, flight_delay.observations, FIRST, LAST, snapshots))
    flights = cleaned_tables()["flights_history"]
    expected = flights.filter(pl.col("decision_at").dt.date().is_between(FIRST, LAST)).sort("decision_at", "flight_id")

    assert found["flight_id"].to_list() == expected["flight_id"].to_list()
    assert set(found.columns) == set(flights.columns)
    assert requests_of(ROUTE, [(flight_delay.observations, found.to_arrow())]).num_rows <= found.height


def test_a_value_that_is_no_number_stops_the_view(isolated: Settings) -> None:
    """NaN in a cleaned table is an error that names table and column; nothing is written."""
    weather = cleaned_tables()["weather_observations_history"].with_columns(pressure_mb=float("nan"))
    store(isolated, {**cleaned_tables(), "weather_observations_history": weather})
    with pytest.raises(TableMismatch, match=r"Table 'weather_observations_history' has .* NaN or infinite values in column 'pressure_mb'"):
        materialize(isolated, WEATHER, FIRST, FIRST)

    assert tables.snapshot_id(isolated, names.features(WEATHER.name)) is None


def test_a_run_materializes_a_range_and_reports_what_it_made(warehouse: Settings, tmp_path: Path) -> None:
    """One run over three days: rows and snapshots, described columns with their lineage, and three checks that pass."""
    write_stack_env(warehouse, tmp_path)
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [asset for asset in assets.defs(PROJECT).assets or () if isinstance(asset, dg.AssetsDefinition)],
            selection=[key(names.features(WEATHER.name))],
            resources={"platform": Platform(home=str(tmp_path))},
            instance=instance,
            tags={
                "dagster/asset_partition_range_start": FIRST.isoformat(),
                "dagster/asset_partition_range_end": LAST.isoformat(),
            },
        )
    *earlier, event = result.get_asset_materialization_events()
    metadata = event.materialization.metadata
    lineage, schema = metadata["dagster/column_lineage"], metadata["dagster/column_schema"]
    assert isinstance(lineage, dg.TableColumnLineageMetadataValue)
    assert isinstance(schema, dg.TableSchemaMetadataValue)

    assert result.success
    assert metadata["dagster/row_count"].value == in_lake(warehouse, WEATHER).num_rows
    assert isinstance(metadata["run"].value, dict)
    assert metadata["run"].value["rows_computed"] == in_lake(warehouse, WEATHER).num_rows
    assert sum(int(str(one.materialization.metadata[PARTITION_ROWS].value)) for one in (*earlier, event)) == metadata["run"].value["rows"]
    assert {tuple(one.materialization.metadata) for one in earlier} == {(PARTITION_ROWS,)}
    assert metadata["snapshots_read"].value == {
        f"cleaned.{table}": str(tables.snapshot_id(warehouse, names.cleaned(table)))
        for table in ("weather_observations_history", "flights_history")
    }
    assert metadata["snapshot_id"].value == str(tables.snapshot_id(warehouse, names.features(WEATHER.name)))
    assert (
        dg.TableColumnDep(key(names.cleaned("weather_observations_history")), "pressure_mb")
        in lineage.value.deps_by_column["origin_weather__pressure_mean_1d"]
    )
    assert all(column.description for column in schema.value.columns)
    assert {check.check_name: check.passed for check in result.get_asset_check_evaluations()} == {
        assets.ROWS_MATCH: True,
        assets.FINITE: True,
        assets.KNOWN: True,
    }
