"""Reading Postgres tables: what is seen, what is refused, and what each row becomes."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import psycopg
import pytest
from pydantic import SecretStr

from pipeline_assets.core.errors import SettingsMissing, SourceChanged, SourceRefused, SourceUnavailable
from pipeline_assets.ingestion.batch.load import stage_days, stage_snapshot
from pipeline_assets.ingestion.batch.postgres import newest_event, open_table
from pipeline_assets_tests.readings import DATABASE, World, at, day, reading
from pipeline_assets_tests.stack_services import for_reader

ODD_TYPES = """
    create type {kinds} as enum ('indoor', 'outdoor');
    create domain {levels} as smallint check (value > 0);
    create table {table} (
        sensor character(4), kind {kinds}, level {levels}, value numeric(6, 2), is_valid boolean, read_at timestamptz, sent_at timestamptz
    );
"""
CUT = "select pg_terminate_backend(pid) from pg_stat_activity where query ~ 'COPY' and query ~ %s and pid <> pg_backend_pid()"


def test_each_day_has_the_rows_of_its_time_by_time(world: World) -> None:
    """Days are half open in UTC, rows come by time and key, and a day without rows is staged as one."""
    late_evening = datetime(2013, 5, 1, 23, 59, 59, 999999, tzinfo=UTC)
    rows = [reading(2), reading(0, sensor="b2"), reading(0), reading(0, read_at=late_evening), reading(0, read_at=at(0, 0))]
    world.fill(rows)

    staged = stage_days(world.settings, world.table, day(0), day(2), run_id="r")

    assert [(one.manifest.partition, one.manifest.rows, len(one.manifest.files)) for one in staged] == [
        ("2013-05-01", 4, 1),
        ("2013-05-02", 0, 0),
        ("2013-05-03", 1, 1),
    ]
    assert world.staged() == [rows[4], rows[2], rows[1], rows[3]]


def test_a_column_that_the_contract_does_not_know_is_not_read(world: World) -> None:
    """An additive change of the table passes, and is reported."""
    world.fill([reading() | {"colour": "red"}])

    (staged,) = stage_days(world.settings, world.table, day(0), day(0), run_id="r")

    assert world.staged() == [reading()]
    assert staged.unknown_fields == ("colour",)


def test_all_readers_see_the_table_as_it_was_when_it_was_opened(world: World) -> None:
    """Rows that are changed, added or deleted while days are read do not mix with those read before."""
    world.fill([reading(0), reading(1)])

    with open_table(world.settings, world.contract, world.origin) as table, table.reader() as first:
        seen = [part.good.to_pylist() for part in first(day(0))]
        world.run("update {table} set level = 9")
        world.run("delete from {table} where read_at < '2013-05-02'")
        world.add([reading(1, sensor="new")])
        with table.reader() as second:
            seen += [part.good.to_pylist() for part in second(day(1))]

    assert seen == [[reading(0)], [reading(1)]]


def test_a_row_without_a_time_is_quarantined_on_the_day_it_was_known(world: World) -> None:
    """A time that is null or infinite puts a row on no day, so it stands on that of its other time, and nothing is lost."""
    world.fill([reading(0), reading(0, read_at=None), reading(1)])
    world.run("insert into {table} (sensor, read_at, sent_at) values ('c3', 'infinity', '2013-05-02T12:00Z'), ('lost', null, null)")

    staged = stage_days(world.settings, world.table, day(0), day(1), run_id="r")

    assert [(one.manifest.rows, one.manifest.broken) for one in staged] == [(1, 1), (1, 1)]
    assert [row[:3] for row in world.quarantined()] == [
        ("2013-05-01", 1, "read_at missing"),
        ("2013-05-02", 1, "read_at out of range"),
        ("undated", 0, "read_at missing"),
    ]


def test_rows_stand_at_the_same_positions_when_they_are_read_again(world: World) -> None:
    """The order within a day is that of the values, not of the pages of the table."""
    world.fill([reading(sensor=sensor, level=99) for sensor in ("c", "a", "b")] + [reading(sensor=f"g{n}") for n in range(5)])
    stage_days(world.settings, world.table, day(0), day(0), run_id="r1")
    before = world.quarantined()
    world.run("update {table} set colour = 'moved' where sensor in ('a', 'g1')")

    stage_days(world.settings, world.table, day(0), day(0), run_id="r2")

    assert [position for _, position, _, _ in before] == [0, 1, 2]
    assert world.quarantined() == before


def test_missing_columns_and_columns_of_another_kind_stop_the_source_by_name(world: World) -> None:
    """A breaking change names every field at fault and the type that was found; nothing is staged."""
    world.fill([], ddl="create table {table} (sensor text, kind text, level text, value date, is_valid boolean, sent_at timestamp)")

    with pytest.raises(SourceChanged) as caught:
        stage_days(world.settings, world.table, day(0), day(0), run_id="r")

    assert "alter its type to timestamptz" in caught.value.problems["sent_at"]
    assert {name: problem.partition(":")[0] for name, problem in caught.value.problems.items()} == {
        "level": "is text, expected integer",
        "value": "is date, expected number",
        "read_at": "(timestamp) has no column",
        "sent_at": "is timestamp without time zone, expected timestamp",
    }
    assert world.keys() == []


def test_types_that_arrow_does_not_have_are_read_as_their_like(world: World) -> None:
    """Enumerations, padded text, domains and exact numbers serve the fields whose values they hold."""
    ddl = ODD_TYPES.replace("{kinds}", f"{world.name}_kinds").replace("{levels}", f"{world.name}_levels")
    world.fill([reading(), reading(sensor="n", value="NaN")], ddl=ddl)

    (staged,) = stage_days(world.settings, world.table, day(0), day(0), run_id="r")

    assert world.staged() == [reading()]
    assert staged.manifest.reasons == {"value not finite": 1}


def test_names_are_quoted(world: World) -> None:
    """A table whose name is words of SQL, or worse, is read like any other."""
    odd = f'order by "{world.name}"; --'
    world.fill([reading()])
    world.run('alter table {table} rename to "' + odd.replace('"', '""') + '"')
    source = replace(world.table, origin=replace(world.origin, table=odd))

    (staged,) = stage_days(world.settings, source, day(0), day(0), run_id="r")

    assert staged.manifest.rows == 1


def test_a_snapshot_holds_the_whole_table(world: World) -> None:
    """A table that is loaded whole is one partition, replaced each time."""
    world.fill([reading(5), reading(0)])
    stage_snapshot(world.settings, world.table, run_id="r1")
    world.run("delete from {table} where read_at > '2013-05-02'")

    staged = stage_snapshot(world.settings, world.table, run_id="r2")

    assert staged.manifest.partition == "snapshot"
    assert world.staged("snapshot") == [reading(0)]


def test_a_database_that_does_not_answer_may_be_asked_again(world: World) -> None:
    """A refused connection is a matter of the moment."""
    gone = world.settings.model_copy(update={"databases": {DATABASE: SecretStr("postgresql://nobody@127.0.0.1:1/none")}})

    with pytest.raises(SourceUnavailable, match=world.name):
        stage_days(gone, world.table, day(0), day(0), run_id="r")


def test_a_table_or_a_database_that_is_not_there_is_refused(world: World) -> None:
    """Asking again would not help: the error names the table, or what the server said."""
    dsn = world.settings.databases[DATABASE].get_secret_value()
    no_database = world.settings.model_copy(update={"databases": {DATABASE: SecretStr(f"{dsn.rpartition('/')[0]}/nowhere")}})

    with pytest.raises(SourceRefused, match=f'has no table "public"."{world.name}"'):
        stage_days(world.settings, world.table, day(0), day(0), run_id="r")
    with pytest.raises(SourceRefused, match="nowhere"):
        stage_days(no_database, world.table, day(0), day(0), run_id="r")


def test_a_database_without_a_dsn_is_a_missing_setting(world: World) -> None:
    """The setting is named as it is set in the environment."""
    with pytest.raises(SettingsMissing, match="PIPELINE_DATABASES__AIRLINE_OPS"):
        stage_days(world.settings.model_copy(update={"databases": {}}), world.table, day(0), day(0), run_id="r")


def test_a_connection_that_is_cut_while_rows_come_may_be_asked_again(world: World, cluster: psycopg.Connection) -> None:
    """The reading of a day that ends in the middle is an error, never half a day."""
    world.fill([])
    world.run(
        "insert into {table} select 'a', 'indoor', 1, 1, true, t, t "
        "from generate_series('2013-05-01Z'::timestamptz, '2013-05-01 23:59Z', '0.3 second') as t"
    )

    with open_table(world.settings, world.contract, world.origin) as table, table.reader() as reader:
        parts = iter(reader(day(0)))
        seen = [next(parts)]
        cluster.execute(CUT, [world.name])
        with pytest.raises(SourceUnavailable):
            seen += parts

    assert 0 < sum(part.good.num_rows for part in seen) < 280_000


def test_rows_known_before_they_happen_are_in_order(world: World) -> None:
    """Where the contract says that plans are known so early, no bound of lateness holds them back."""
    world.fill([reading(sent_at=at(0) - timedelta(days=300))])
    plans = replace(world.table, contract=replace(world.table.contract, earliness=timedelta(days=300)))

    (staged,) = stage_days(world.settings, plans, day(0), day(0), run_id="r")

    assert (staged.manifest.rows, staged.manifest.broken) == (1, 0)


@pytest.fixture
def database_in(world: World, cluster: psycopg.Connection) -> Iterator[Callable[[str], World]]:
    """A function that gives the world another operational database, of an encoding; dropped after the test."""
    name = f"legacy_{world.name}"

    def make(encoding: str) -> World:
        owned = world.settings.owners[DATABASE].get_secret_value()
        owner = str(urlsplit(owned).username)
        cluster.execute(f"create database {name} owner {owner} encoding '{encoding}' locale 'C' template template0")
        own = SecretStr(f"{owned.rpartition('/')[0]}/{name}")
        read = for_reader(own, world.settings.databases[DATABASE])
        return replace(world, settings=world.settings.model_copy(update={"owners": {DATABASE: own}, "databases": {DATABASE: read}}))

    yield make
    cluster.execute(f"drop database if exists {name} with (force)")


def test_texts_of_a_database_of_another_encoding_are_what_they_say(database_in: Callable[[str], World]) -> None:
    """The server gives them as UTF-8, whatever it keeps them in."""
    world = database_in("LATIN1")
    rows = [reading(sensor="Zo\u00eb"), reading(1, sensor="b2")]
    world.fill(rows)

    stage_snapshot(world.settings, replace(world.table, load="snapshot"), run_id="r")

    assert world.staged("snapshot") == rows


def test_a_text_of_a_database_without_an_encoding_that_is_none_breaks_its_row(database_in: Callable[[str], World]) -> None:
    """Regression: bytes that are no UTF-8 were staged as a text, which nothing could read."""
    world = database_in("SQL_ASCII")
    world.fill([reading(), reading(1, sensor="b2")])
    world.run("update {table} set sensor = E'Zo\\xeb' where sensor = 'a1'")

    staged = stage_snapshot(world.settings, replace(world.table, load="snapshot"), run_id="r")

    assert (staged.manifest.rows, staged.manifest.reasons) == (1, {"sensor wrong type": 1})
    assert world.staged("snapshot") == [reading(1, sensor="b2")]
    assert b'"sensor": "Zo\xeb"' in world.originals()[0]


def test_the_newest_event_is_one_of_the_days_that_are_asked_for(world: World) -> None:
    """Regression: one row far in the future, or at infinity, hid all others, or was refused."""
    world.fill([reading(0), reading(3), reading(400)])
    for moment in ("infinity", "-infinity"):
        world.run("insert into {table} (sensor, read_at) values ('odd', %s)", moment)
    found = [newest_event(world.settings, world.contract, world.origin, (at(0, 0), at(last, 0))) for last in (0, 1, 31)]

    assert found == [None, at(0), at(3)]
