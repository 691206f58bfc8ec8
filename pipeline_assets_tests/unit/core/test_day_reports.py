"""What the events of a run over days say: each day its own numbers, and what is true of the whole run once."""

from collections.abc import Sequence
from datetime import date, timedelta

import dagster as dg
import pytest

from pipeline_assets.core import names
from pipeline_assets.core.names import PARTITION_ROWS
from pipeline_assets.core.resources import Facts, column_lineage, of_run, report_days, rows_by_day

FIRST, DAYS = date(2013, 1, 1), 60
ROWS: dict[date | None, int] = {FIRST + timedelta(days=number): number for number in range(1, DAYS)}
COLUMNS = [f"column_{number}" for number in range(60)]
ONCE = {
    "dagster/column_schema": dg.TableSchema([dg.TableColumn(name, "number", "What it is.") for name in COLUMNS]),
    "dagster/column_lineage": column_lineage({name: [(("raw", "rides"), name)] for name in COLUMNS}),
    **of_run({"rows": sum(ROWS.values())}),
}
RIDES, OTHERS = dg.AssetKey(["lake", "rides"]), dg.AssetKey(["lake", "others"])


def events_of(asset: dg.AssetsDefinition, first: date, last: date) -> Sequence[dg.AssetMaterialization]:
    """The materializations of a run over some days, from its event log."""
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([asset], instance=instance, tags=names.range_tags(first, last))
        stored = instance.all_logs(result.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    return [event.asset_materialization for event in stored if event.asset_materialization is not None]


def rides(by_day: dict[date, Facts]) -> dg.AssetsDefinition:
    """A table by day whose run reports these numbers of its days."""

    @dg.asset(key=RIDES, partitions_def=dg.DailyPartitionsDefinition(FIRST.isoformat()), backfill_policy=dg.BackfillPolicy.single_run())
    def table(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        report_days(context, by_day, ONCE)
        return dg.MaterializeResult()

    return table


@pytest.fixture(scope="module")
def events() -> Sequence[dg.AssetMaterialization]:
    """Those of a run over sixty days."""
    last = FIRST + timedelta(days=DAYS - 1)
    return events_of(rides(rows_by_day(FIRST, last, dict(ROWS))), FIRST, last)


def test_each_day_shows_its_own_rows(events: Sequence[dg.AssetMaterialization]) -> None:
    """A plot over days has as many values as days; a day that no row is of shows none, and not the sum of the run."""
    shown = {event.partition: event.metadata[PARTITION_ROWS].value for event in events}

    assert shown == {str(FIRST): 0, **{str(day): rows for day, rows in ROWS.items()}}


def test_what_is_true_of_the_run_stands_on_its_newest_day_alone(events: Sequence[dg.AssetMaterialization]) -> None:
    """The event that the page of the asset shows has schema, lineage and sums; all others have numbers of their day and nothing else."""
    *earlier, newest = events

    assert newest.partition == str(FIRST + timedelta(days=DAYS - 1))
    assert newest.metadata.keys() == {PARTITION_ROWS, *ONCE}
    assert newest.metadata["run"].value == {"rows": sum(ROWS.values())}
    assert {tuple(event.metadata) for event in earlier} == {(PARTITION_ROWS,)}


def test_a_run_of_one_day_has_all_on_it() -> None:
    """A day that is materialized again by itself shows its rows, its schema and its run."""
    (event,) = events_of(rides({FIRST: {PARTITION_ROWS: 7}}), FIRST, FIRST)

    assert event.metadata.keys() == {PARTITION_ROWS, *ONCE}
    assert event.metadata[PARTITION_ROWS].value == 7


def test_of_several_assets_of_a_run_each_has_its_own() -> None:
    """Where one step makes two tables, numbers are given to the one that is named."""
    partitions = dg.DailyPartitionsDefinition(FIRST.isoformat())

    @dg.multi_asset(
        specs=[dg.AssetSpec(RIDES), dg.AssetSpec(OTHERS)], partitions_def=partitions, backfill_policy=dg.BackfillPolicy.single_run()
    )
    def tables(context: dg.AssetExecutionContext) -> tuple[dg.MaterializeResult[None], dg.MaterializeResult[None]]:
        for number, asset in enumerate((RIDES, OTHERS)):
            report_days(context, {FIRST: {PARTITION_ROWS: number}}, {}, asset)
        return dg.MaterializeResult(asset_key=RIDES), dg.MaterializeResult(asset_key=OTHERS)

    shown = {event.asset_key: event.metadata[PARTITION_ROWS].value for event in events_of(tables, FIRST, FIRST)}

    assert shown == {RIDES: 0, OTHERS: 1}
