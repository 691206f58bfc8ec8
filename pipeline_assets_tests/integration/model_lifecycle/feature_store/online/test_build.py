"""Building online views from the lake: no gap and no double at the seam to the topic, and tables are followed by their commits."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from secrets import token_hex

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from psycopg.sql import SQL, Identifier
from pydantic import SecretStr

from pipeline_assets.core import names
from pipeline_assets.core.connections import online
from pipeline_assets.core.online_errors import TextsDiffer
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.build import build, follow
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed
from pipeline_assets.model_lifecycle.feature_store.online.follower import Follower
from pipeline_assets.model_lifecycle.feature_store.online.keep import keep_records
from pipeline_assets.model_lifecycle.feature_store.online.read import Reader
from pipeline_assets.model_lifecycle.feature_store.online.session import open_session
from pipeline_assets.model_lifecycle.feature_store.online.stored import Stored
from pipeline_assets.processing.features.view import view_features
from pipeline_assets.processing.lake import tables
from pipeline_assets_tests.online_departures import (
    INSTANT,
    START,
    departures,
    feed,
    put_history,
    put_typed,
    questions,
    rows_kept,
    states_kept,
    table_of,
)


def served(settings: Settings, kept: store.Kept, at: datetime) -> Mapping[str, list[object]]:
    """What is served, after it was held against the offline kernel over the rows that are kept."""
    asked = questions(at)
    with psycopg.connect(settings.online_dsn.get_secret_value(), autocommit=True) as connection:
        found, whole = Reader(Stored(connection, [kept.feed]), kept.feed.views).read(asked).features, rows_kept(connection, kept)
    for view in kept.feed.views:
        expected = view_features(view, asked, whole)
        assert found.select(expected.column_names).to_pydict() == expected.to_pydict()
    answer: Mapping[str, list[object]] = found.to_pydict()
    return answer


def live(settings: Settings, declared: Feed) -> store.Kept:
    """The feed as it is read."""
    with online(settings) as connection:
        return store.live(connection, declared)


def test_a_stream_goes_on_where_its_build_ended(isolated: Settings) -> None:
    """History, typed records and what comes after them overlap, with events late across the seam: the states are those of one course."""
    declared, rows = feed("departures_history"), departures(np.random.default_rng(11), 200)
    third = len(rows) // 3
    put_history(isolated, table_of(rows[: third + 20]))
    put_typed(isolated, table_of(rows[third : 2 * third]), 0)
    done = build(isolated, declared, lambda _: None)
    kept = live(isolated, declared)
    with online(isolated) as connection:
        assert store.offsets(connection, kept) == {0: third}
    assert done.read == 2 * third + 20

    with open_session(isolated, kept) as session:
        for start in range(2 * third - 5, len(rows), 7):
            keep_records(session, table_of(rows[start : start + 7]), {0: start - third + 7})
    after = served(isolated, kept, rows[-1]["recorded_at"])

    with online(isolated) as connection:
        whole = store.begin(connection, feed("departures_history"))
    with open_session(isolated, whole) as session:
        keep_records(session, table_of(rows), {0: 1})
    with online(isolated) as connection:
        store.go_live(connection, whole)
    assert served(isolated, whole, rows[-1]["recorded_at"]) == after
    assert after["origin_departures__late_rate_7d"][0] is not None


def test_a_build_that_was_cut_off_is_made_anew(isolated: Settings) -> None:
    """What a killed build left is removed by the next, whose states are those of a build that nothing disturbed, to the byte."""
    declared, rows = feed("departures_history"), departures(np.random.default_rng(12), 60)
    put_history(isolated, table_of(rows))
    build(isolated, declared, lambda _: None)
    with online(isolated) as connection:
        undisturbed = states_kept(connection, store.live(connection, declared))
        begun = store.begin(connection, declared)
    with open_session(isolated, begun) as session:
        keep_records(session, table_of(rows[:10]), {0: 10})

    build(isolated, declared, lambda _: None)
    with online(isolated) as connection:
        assert states_kept(connection, store.live(connection, declared)) == undisturbed
        assert store.offsets(connection, store.live(connection, declared)) == {}


def test_a_version_that_nobody_keeps_goes_with_the_next_build(isolated: Settings) -> None:
    """Versions of code that runs nowhere go after a day, those that a worker keeps and young ones stay."""
    declared = feed("departures_history")
    put_history(isolated, table_of(departures(np.random.default_rng(13), 20)))
    with online(isolated) as connection:
        store.create(connection)
        for digest, age in (("old", "2 days"), ("kept", "2 days"), ("young", "1 hour")):
            connection.execute(
                "insert into online.feeds (name, hash, status, made_at) values (%s, %s, 'live', now() - %s::interval)",
                (declared.name, digest, age),
            )
        old, kept, _ = (number for (number,) in connection.execute("select id from online.feeds order by id").fetchall())
        connection.execute("insert into online.workers values ('w', now())")
        connection.execute("insert into online.progress values (%s, 'w', now(), now(), now(), 0, 0, 0, 0, 0, null)", [kept])
        connection.execute(SQL("create table online.{} (key text)").format(Identifier(f"state_{old}")))
    build(isolated, declared, lambda _: None)
    with online(isolated) as connection:
        left = {digest for (digest,) in connection.execute("select hash from online.feeds").fetchall()}
        table = connection.execute("select to_regclass(%s)", [f"online.state_{old}"]).fetchone()

    assert left == {declared.hash, "kept", "young"}
    assert table == (None,)


def test_a_database_with_another_collation_is_refused(isolated: Settings, cluster: psycopg.Connection) -> None:
    """Where letters beyond ASCII have no other case, dbt's SQL could give other rows: nothing is built there."""
    name = f"test_{token_hex(6)}"
    base, _, _ = isolated.online_dsn.get_secret_value().rpartition("/")
    put_history(isolated, table_of(departures(np.random.default_rng(14), 5)))
    cluster.execute(
        SQL("create database {} template template0 encoding 'UTF8' locale_provider builtin builtin_locale 'C' locale 'C'").format(
            Identifier(name)
        )
    )
    other = isolated.model_copy(update={"online_dsn": SecretStr(f"{base}/{name}")})
    try:
        with pytest.raises(TextsDiffer, match="another encoding or collation than the warehouse"):
            build(other, feed("departures_history"), lambda _: None)
    finally:
        cluster.execute(SQL("drop database {} with (force)").format(Identifier(name)))


HOURS = [START + timedelta(hours=hour) for hour in range(24 * 5)]


def observed(declared: Feed, at: list[datetime], value: float) -> pa.Table:
    """Weather at some times, each number of them another from a value on."""
    count, numbers = len(at), [column for column in declared.columns if declared.kinds[column] == "number"]
    columns = {name: pa.array([value + place for place in range(count)], pa.float64()) for name in numbers}
    times = {"observed_at": pa.array(at, INSTANT), "known_at": pa.array([one + timedelta(minutes=50) for one in at], INSTANT)}
    return pa.table({"origin": ["EWR"] * count, **columns, **times, "superseded_at": pa.nulls(count, INSTANT)})


def put_weather(settings: Settings, declared: Feed, at: list[datetime], value: float) -> None:
    """Has the days of some times in the lake hold the weather at these."""
    rows = observed(declared, at, value)
    tables.replace_days(settings, names.cleaned(declared.table.name), rows, "observed_at", at[0].date(), at[-1].date())


def test_a_table_is_followed_by_its_commits(isolated: Settings) -> None:
    """Weather is built as far back as its windows reach; a day that is replaced, with rows changed, gone and new, is taken once."""
    declared = feed("weather_observations_history")
    put_weather(isolated, declared, HOURS, 1.5)
    done = build(isolated, declared, lambda _: None)
    kept, at = live(isolated, declared), HOURS[-1] + timedelta(hours=2)
    before = served(isolated, kept, at)
    assert done.come == 24 * 4
    assert follow(isolated, declared) is None

    put_weather(isolated, declared, [*HOURS[-20:], HOURS[-1] + timedelta(minutes=30)], 7.0)
    again = follow(isolated, declared)
    assert again is not None
    assert (again.read, again.gone, again.come) == (21, 24, 21)
    assert served(isolated, kept, at) != before
    assert follow(isolated, declared) is None


def test_a_follower_takes_each_commit_of_what_is_built(isolated: Settings) -> None:
    """A table that is not built is waited for; a commit is taken once; one that cannot be taken is named, and is no end of the follower."""
    declared = feed("weather_observations_history")
    follower = Follower(isolated, [declared])
    course = follower.courses[declared]
    put_weather(isolated, declared, HOURS, 1.5)
    assert (list(follower.look()), course.caught_up_at, course.problem) == ([], None, None)

    build(isolated, declared, lambda _: None)
    assert (list(follower.look()), course.caught_up_at is None, course.lag) == ([], False, 0)
    put_weather(isolated, declared, HOURS[-20:], 7.0)
    assert [(done.gone, done.come) for done in follower.look()] == [(24, 20)]
    assert (list(follower.look()), course.taken) == ([], 20)

    with online(isolated) as connection:
        connection.execute(SQL("drop table {} cascade").format(live(isolated, declared).rows))
    put_weather(isolated, declared, HOURS[-20:], 9.0)
    assert (list(follower.look()), course.lag) == ([], 1)
    assert course.problem is not None
    assert "rows_" in course.problem
