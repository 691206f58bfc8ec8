"""The lineage of dbt's columns: what each is computed from, in its row or of others, and which columns decide the rows."""

import json
from pathlib import Path

import pytest

from pipeline_assets.core import names
from pipeline_assets.core.columns import cleaned_models
from pipeline_assets.processing.cleaning.dbt import project_folder
from pipeline_assets.processing.cleaning.lineage import ColumnOrigin, DbtLineage, load, store
from pipeline_assets_tests.dbt_lineage import lineage_of, project_lineage, raw

MODEL = names.cleaned("model")
FROM_ORDERS = 'from "somewhere"."raw"."orders"'
PAID = f'select o.order_id, p.amount {FROM_ORDERS} as o left join "x"."raw"."payments" as p'


def origin(sql: str, column: str = "found") -> ColumnOrigin:
    """What a column of a model with that SQL is computed from."""
    found = lineage_of(model=sql).origin((MODEL, column))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("sql", "same_row", "other_rows"),
    [
        (f"select amount as found {FROM_ORDERS}", ["orders.amount"], []),
        ("with a as (select * from raw.orders), b as (select amount + 1 as found from a) select * from b", ["orders.amount"], []),
        (f"select case when customer is null then amount end as found {FROM_ORDERS}", ["orders.amount", "orders.customer"], []),
        (f"select sum(amount) as found {FROM_ORDERS} group by customer", [], ["orders.amount"]),
        (f"select count(*) filter (where amount > 0) as found {FROM_ORDERS}", [], ["orders.amount"]),
        (
            f"select lag(amount) over (partition by customer order by ordered_at) as found {FROM_ORDERS}",
            [], ["orders.amount", "orders.customer", "orders.ordered_at"],
        ),
        (
            f"select lag(1) over w is null as found {FROM_ORDERS} window w as (partition by customer order by ordered_at)",
            [], ["orders.customer", "orders.ordered_at"],
        ),
        (f"select amount - avg(amount) over () as found {FROM_ORDERS}", ["orders.amount"], []),
        ("select coalesce(o.amount, p.amount) as found from raw.orders as o join raw.payments as p using (order_id)",
         ["orders.amount", "payments.amount"], []),
        ("select order_id as found from raw.orders join raw.payments as p using (order_id)", ["orders.order_id", "payments.order_id"], []),
        ("select amount as found from raw.orders union all select amount from raw.payments", ["orders.amount", "payments.amount"], []),
        ("select (select max(amount) from raw.payments) as found from raw.orders", [], ["payments.amount"]),
        ("select now() as found from raw.orders", [], []),
    ],
    ids=["renamed", "through CTEs", "case", "sum", "filter", "window", "named window", "both", "coalesce", "using", "union", "subquery",
         "no column"],
)  # fmt: skip
def test_a_column_is_computed_from_columns_of_its_row_and_of_others(sql: str, same_row: list[str], other_rows: list[str]) -> None:
    """Through CTEs, stars, joins and set operations; what comes by a window, an aggregate or a query alone is of other rows."""
    found = origin(sql)

    assert set(found.same_row) == raw(*same_row)
    assert set(found.other_rows) == raw(*other_rows)


def test_a_row_as_such_is_all_of_its_columns() -> None:
    """But for when it was copied, by the wall clock."""
    found = origin("select to_jsonb(whole) as found from (select *, orders as whole from raw.orders as orders) as a")

    assert set(found.same_row) == raw(
        "orders.order_id", "orders.customer", "orders.amount", "orders.ordered_at", "orders.recorded_at", "orders._deleted_at"
    )


@pytest.mark.parametrize(
    ("sql", "deciding"),
    [
        (f"select amount {FROM_ORDERS}", []),
        (f"select amount {FROM_ORDERS} where customer is not null", ["orders.customer"]),
        (f"{PAID} on p.order_id = o.order_id and p.recorded_at <= o.recorded_at",
         ["orders.order_id", "payments.order_id", "orders.recorded_at", "payments.recorded_at"]),
        (f"select max(amount) as a {FROM_ORDERS} group by customer having min(ordered_at) is not null",
         ["orders.customer", "orders.ordered_at"]),
        (f"select amount {FROM_ORDERS} order by ordered_at limit 5", ["orders.ordered_at"]),
        (f"select amount {FROM_ORDERS} order by ordered_at", []),
        (f"select distinct customer {FROM_ORDERS}", ["orders.customer"]),
        ("select amount from raw.orders as o where exists (select 1 from raw.payments as p where p.order_id = o.order_id)",
         ["orders.order_id", "payments.order_id"]),
        ("select amount from raw.orders where order_id in (select order_id from raw.payments)", ["orders.order_id", "payments.order_id"]),
        ("with late as (select *, amount > 5 as is_much from raw.orders) select order_id from late where is_much", ["orders.amount"]),
    ],
    ids=["none", "where", "join", "group", "limit", "only sorted", "distinct", "exists", "in", "through a CTE"],
)  # fmt: skip
def test_what_decides_rows_is_said_apart(sql: str, deciding: list[str]) -> None:
    """Columns of joins, filters and groups are no part of a value, but of whether there is one."""
    assert set(lineage_of(model=sql).models[MODEL].decided_by) == raw(*deciding)


@pytest.mark.parametrize(
    ("condition", "joined"),
    [
        ("o.customer = p.order_id", [("orders.customer", "payments.order_id")]),
        ("o.customer = p.order_id and o.amount > p.amount", [("orders.customer", "payments.order_id")]),
        (
            "p.order_id = o.customer and o.amount = p.amount",
            [("payments.order_id", "orders.customer"), ("orders.amount", "payments.amount")],
        ),
        ("o.customer = p.order_id or o.amount = p.amount", []),
        ("o.customer = lower(p.order_id)", []),
        ("o.customer = 'x'", []),
    ],
)
def test_columns_are_joined_where_a_join_wants_them_equal_whatever_else_it_wants(condition: str, joined: list[tuple[str, str]]) -> None:
    """One of several ways to be joined, a computed value and a constant join no two columns."""
    renamed = "with o as (select customer, amount from raw.orders) select o.amount from o"
    found = lineage_of(model=f"{renamed} left join raw.payments as p on {condition}").models[MODEL].joined

    assert set(found) == {(*raw(one), *raw(other)) for one, other in joined}


def test_lineage_leads_through_models_down_to_raw_tables() -> None:
    """A path is of the same row only where each step is; a join on the way is named as what decides."""
    found = lineage_of(
        first="select order_id, amount, sum(amount) over () as total from raw.orders",
        second="select first.order_id, first.amount * 2 as doubled, total, p.customer from cleaned.first "
        "join raw.payments as p on p.order_id = first.order_id",
    )
    second = names.cleaned("second")
    doubled, total = found.behind([(second, "doubled")]), found.behind([(second, "total")])

    assert doubled.same_row == raw("orders.amount")
    assert total.same_row == frozenset()
    assert total.computed == raw("orders.amount")
    assert doubled.decided == raw("orders.order_id", "payments.order_id")
    assert found.tables_below(second) == (second, names.cleaned("first"))


def test_the_versions_of_a_row_are_seen_through() -> None:
    """The macro `versions_of` passes columns on as they are; the end of a version comes of the other rows, of all of their columns."""
    lineage = project_lineage()
    departures = names.cleaned("departures_history")
    late, known, ended = (lineage.behind([(departures, name)]) for name in ("is_late", "known_at", "superseded_at"))

    assert late.computed == late.same_row == raw("flight_departures.delay_minutes", "flight_departures.is_cancelled")
    assert known.computed == raw("flight_departures.recorded_at")
    assert ended.same_row == frozenset()
    assert raw("flight_departures.delay_minutes", "flight_departures._deleted_at") <= ended.computed
    assert raw("flight_departures._loaded_at") & (ended.computed | ended.decided) == set()
    assert lineage.origin((departures, "is_late")).expression == "is_cancelled OR delay_minutes >= 15"  # type: ignore[union-attr]


def test_every_model_of_the_project_has_the_columns_that_its_yaml_declares() -> None:
    """Each with an origin, and none with the wall clock."""
    lineage = project_lineage()
    for table, columns in cleaned_models(project_folder()).items():
        model = lineage.models[names.cleaned(table)]
        assert (model.unread, model.clocks) == (None, ())
        assert set(model.columns) == set(columns)
        assert [name for name, found in model.columns.items() if not (found.same_row or found.other_rows)] == []


@pytest.mark.parametrize(
    ("sql", "clocks"),
    [
        ("select now() as a from raw.orders", ["CURRENT_TIMESTAMP"]),
        ("select amount from raw.orders where ordered_at > current_date - 5", ["CURRENT_DATE"]),
        ("select clock_timestamp() as a", ["CLOCK_TIMESTAMP()"]),
        ("select localtimestamp as a", ["LOCALTIMESTAMP"]),
        ("select 'today'::date as a, timestamptz 'now' as b", ["CAST('today' AS DATE)", "CAST('now' AS TIMESTAMPTZ)"]),
        ("select age(ordered_at) as a from raw.orders", ["AGE(ordered_at)"]),
        ("select age(recorded_at, ordered_at) as a, 'now' as b, 'today'::text as c from raw.orders", []),
        ("select timestamptz '2013-01-01' as a", []),
    ],
)
def test_the_wall_clock_is_found_wherever_it_stands(sql: str, clocks: list[str]) -> None:
    """As a function, a keyword, a word that Postgres reads as a time, or the difference to today; a plain text is none."""
    assert [found.upper() for found in lineage_of(model=sql).models[MODEL].clocks] == [clock.upper() for clock in clocks]


def test_the_time_of_the_run_in_jinja_is_a_wall_clock() -> None:
    """Its text in the compiled SQL would look like any other time."""
    assert lineage_of(model="select 1 as a -- {{ run_started_at }}").models[MODEL].clocks == ("run_started_at",)


def test_sql_that_cannot_be_read_says_so() -> None:
    """The model keeps the columns of its YAML file, without origins; those above it are read."""
    found = lineage_of(model="select ( from", above="select declared as found from cleaned.model")

    assert found.models[MODEL].unread
    assert found.origin((MODEL, "declared")) == ColumnOrigin()
    assert found.behind([(names.cleaned("above"), "found")]).computed == frozenset()


def test_lineage_is_kept_until_the_manifest_changes(tmp_path: Path) -> None:
    """What was found is read again as it was; of another manifest, of other code, or as a broken file it is not."""
    found = lineage_of(model=f"{PAID} on p.order_id = o.order_id", other="select now() as a")
    kept, made_from = tmp_path / "column_lineage.json", {"manifest": "1"}
    store(kept, made_from, found)

    assert load(kept, made_from) == found
    assert load(kept, {"manifest": "2"}) is None
    kept.write_text(json.dumps({"origin": None})[:-3])
    assert load(kept, made_from) is None
    assert load(tmp_path / "none.json", made_from) is None
    assert [file.name for file in tmp_path.iterdir()] == [kept.name]
    assert DbtLineage().behind([(MODEL, "a")]).computed == {(MODEL, "a")}
