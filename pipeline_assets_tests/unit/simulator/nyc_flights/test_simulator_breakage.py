"""Real rows keep the contracts of the use case, broken rows break them, and both are counted beforehand."""

from collections import Counter
from collections.abc import Mapping
from datetime import date, datetime

import polars as pl
import pytest

from pipeline_assets.spec.contracts import Contract, Field
from pipeline_assets.spec.sources import PostgresTable
from pipeline_assets.use_cases.nyc_flights import sources, use_case
from simulator.nyc_flights import api, breakage, data, database

CONTRACTS = {source.contract.name: source.contract for source in use_case.sources}
TABLES = [source.contract.name for source in use_case.sources if isinstance(source.origin, PostgresTable)]
DAILY = ["flight_schedule", "flight_history", "weather"]
JSON_TYPES: Mapping[str, tuple[type, ...]] = {"string": (str,), "timestamp": (str,), "number": (float, int), "integer": (int,)}


@pytest.fixture(scope="module")
def tables() -> dict[str, pl.DataFrame]:
    """Every table of the operational database with all days of the year, broken rows included."""
    return database.tables(data.FIRST_DAY, data.LAST_DAY, broken=True)


def _violations(rows: pl.DataFrame, contract: Contract) -> dict[str, int]:
    """How many rows break which rule of a field."""
    counts = {}
    for field in contract.fields:
        value = pl.col(field.name)
        rules = {
            "missing": value.is_null() if field.required else pl.lit(value=False),
            "out of range": ~value.is_between(*_range(field)) if field.maximum is not None else pl.lit(value=False),
            "not allowed": ~value.is_in(list(field.allowed)) if field.allowed else pl.lit(value=False),
            "too long": value.str.len_chars() > field.max_length if field.max_length is not None else pl.lit(value=False),
        }
        for reason, rule in rules.items():
            counts[f"{field.name} {reason}"] = rows.filter(rule).height
    return {name: count for name, count in counts.items() if count > 0}


def _range(field: Field) -> tuple[float, float]:
    assert field.minimum is not None
    assert field.maximum is not None
    return field.minimum, field.maximum


def _json_problem(record: Mapping[str, object], field: Field) -> str | None:
    """What is wrong with one field of one record of the weather service; None if nothing is."""
    value = record.get(field.name)
    if value is None:
        return "missing" if field.required else None
    if not isinstance(value, JSON_TYPES[field.type]):
        return "wrong type"
    if field.type == "timestamp" and datetime.fromisoformat(str(value)).tzinfo is None:
        return "without zone"
    if isinstance(value, float | int) and field.maximum is not None and not _range(field)[0] <= value <= field.maximum:
        return "out of range"
    return "not allowed" if field.allowed and value not in field.allowed else None


@pytest.mark.parametrize("name", TABLES)
def test_tables_have_the_columns_of_their_contract(name: str) -> None:
    """The outside world and the contract name the same columns, in the same order."""
    assert list(database.TABLES[name]) == [field.name for field in CONTRACTS[name].fields]
    assert database.PRIMARY_KEYS[name] == CONTRACTS[name].primary_key


def test_daily_tables_are_cut_by_the_time_of_their_contract() -> None:
    """A day of a table is a day of its contract's event time."""
    daily = {source.contract.name: source.contract.event_at for source in use_case.sources if source.load == "daily"}

    assert dict(database.EVENT_TIMES) == {name: column for name, column in daily.items() if name in TABLES}


def test_weather_has_the_fields_of_its_contract() -> None:
    """A real observation shows exactly the fields of the contract."""
    fields = {field.name for field in sources.weather.contract.fields}

    assert {frozenset(observation.record) for observation in api.observations(broken=False)} == {frozenset(fields)}


@pytest.mark.parametrize("name", TABLES)
def test_only_the_rows_added_as_broken_break_their_contract(name: str, tables: dict[str, pl.DataFrame]) -> None:
    """Over the whole year the contract finds exactly the broken rows that were announced, by field and reason."""
    assert _violations(tables[name], CONTRACTS[name]) == breakage.expected_broken(name, data.FIRST_DAY, data.LAST_DAY)


def test_only_announced_observations_break_the_contract_of_the_weather() -> None:
    """The same for the weather, where one broken row stands in the real data: a wind of 1,048 mph."""
    found = Counter(
        f"{field.name} {problem}"
        for observation in api.observations()
        for field in sources.weather.contract.fields
        if (problem := _json_problem(observation.record, field)) is not None
    )

    assert found == breakage.expected_broken("weather", data.FIRST_DAY, data.LAST_DAY)


@pytest.mark.parametrize("name", TABLES)
def test_broken_rows_have_keys_of_their_own(name: str, tables: dict[str, pl.DataFrame]) -> None:
    """A broken row never takes the place of a real one."""
    assert tables[name].select(pl.struct(CONTRACTS[name].primary_key).n_unique()).item() == tables[name].height


def test_broken_observations_have_keys_of_their_own() -> None:
    """No two observations of an airport are of the same time."""
    keys = Counter((observation.record["origin"], observation.observed_at) for observation in api.observations())

    assert keys.most_common(1)[0][1] == 1


@pytest.mark.parametrize("name", DAILY)
def test_every_day_stays_far_below_the_share_that_may_be_broken(name: str, tables: dict[str, pl.DataFrame]) -> None:
    """No day has more than half of the broken rows that its contract lets pass."""
    times = (
        pl.Series([observation.observed_at for observation in api.observations()])
        if name == "weather"
        else tables[name][database.EVENT_TIMES[name]]
    )
    rows = dict(times.dt.date().value_counts().rows())
    shares = {day: sum(breakage.expected_broken(name, day, day).values()) / count for day, count in rows.items()}

    assert max(shares.values()) <= CONTRACTS[name].broken_share / 2


@pytest.mark.parametrize("name", ["planes", "airports", "airlines"])
def test_a_register_stays_below_the_share_that_may_be_broken(name: str, tables: dict[str, pl.DataFrame]) -> None:
    """One row of each register is broken, which its contract lets pass."""
    assert 1 / tables[name].height < CONTRACTS[name].broken_share


@pytest.mark.parametrize("name", DAILY)
def test_the_same_day_is_broken_in_the_same_way(name: str) -> None:
    """Broken rows are the same whenever they are asked for, and lie inside their day."""
    day = date(2013, 2, 28)
    time_column = CONTRACTS[name].event_at
    rows = breakage.broken_rows(name, day)

    assert rows == breakage.broken_rows(name, day)
    assert [str(row.values[time_column])[:10] for row in rows] == ["2013-02-28"] * len(rows)


def test_days_without_a_full_day_of_data_are_not_broken() -> None:
    """The last two days of the data, with few rows or none, get no broken rows."""
    counts = [breakage.expected_broken(name, date(2013, 12, 31), date(2014, 1, 1)) for name in DAILY]

    assert counts == [{}, {}, {}]


def test_counts_of_a_span_are_the_sum_of_its_days() -> None:
    """Two days have the broken rows of each."""
    both = breakage.expected_broken("weather", date(2013, 2, 11), date(2013, 2, 12))

    assert both == {
        "temperature_f wrong type": 1,
        "published_at missing": 1,
        "temperature_f out of range": 1,
        "observed_at without zone": 1,
        "wind_speed_mph out of range": 1,
    }


def test_an_unknown_source_is_named() -> None:
    """A source that does not exist is an error that names it."""
    with pytest.raises(KeyError, match="trains"):
        breakage.broken_rows("trains", date(2013, 1, 1))
