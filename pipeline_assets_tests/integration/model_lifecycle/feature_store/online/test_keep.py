"""The online store, in Postgres and copied: rows that come in any order and any parts give the offline features, bit for bit."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from pydantic import SecretStr

from pipeline_assets.core.connections import online
from pipeline_assets.core.online_errors import BehindState, NotOnline
from pipeline_assets.core.settings import OnlineSettings, Settings
from pipeline_assets.model_lifecycle.feature_store.online import read, store
from pipeline_assets.model_lifecycle.feature_store.online.codec import unpacked
from pipeline_assets.model_lifecycle.feature_store.online.copies import open_source
from pipeline_assets.model_lifecycle.feature_store.online.keep import KEPT_APART, forget_old, keep_records
from pipeline_assets.model_lifecycle.feature_store.online.layout import Layout
from pipeline_assets.model_lifecycle.feature_store.online.read import Reader, Served
from pipeline_assets.model_lifecycle.feature_store.online.session import Session, open_session
from pipeline_assets.model_lifecycle.feature_store.online.state import States
from pipeline_assets.processing.features.view import view_features
from pipeline_assets_tests.online_departures import connected, departures, feed, questions, rows_kept, states_kept, table_of


@pytest.fixture(params=["postgres", "valkey"])
def database(request: pytest.FixtureRequest, stores: Settings, fresh_database: Callable[..., SecretStr]) -> OnlineSettings:
    """An empty online store, which is read itself or by its copy."""
    server = request.getfixturevalue("valkey") if request.param == "valkey" else None
    return OnlineSettings.model_construct(home=stores.home, online_dsn=fresh_database(stores.online_dsn), online_valkey=server)


@pytest.fixture
def session(database: OnlineSettings) -> Iterator[Session]:
    """A session that keeps departures, which nothing is known of yet."""
    with online(database) as connection:
        store.go_live(connection, store.begin(connection, feed("departures_history")))
        kept = store.live(connection, feed("departures_history"))
    with open_session(database, kept) as opened:
        yield opened


@pytest.mark.parametrize("most", [1, 7, 200])
def test_served_values_equal_the_offline_ones_whatever_comes_together(session: Session, database: OnlineSettings, most: int) -> None:
    """Departures with corrections, moves and repeats, one by one or many at once: at each stop every feature of each view is equal."""
    random = np.random.default_rng(most)
    rows, kept = departures(random, 60 if most == 1 else 250), session.kept
    with connected(database) as connection, open_source(database, [session.kept.feed]) as source:
        reader = Reader(source, session.kept.feed.views)
        place = 0
        while place < len(rows):
            size = int(random.integers(1, most + 1))
            keep_records(session, table_of(rows[place : place + size]), {0: place + size})
            place += size
            if place % 5 and place < len(rows):
                continue
            newest = rows[min(place, len(rows)) - 1]["recorded_at"]
            for later in (timedelta(0), timedelta(minutes=7), timedelta(days=2)):
                asked = questions(newest + later)
                served, whole = reader.read(asked), rows_kept(connection, kept)
                for view in kept.feed.views:
                    expected = view_features(view, asked, whole)
                    assert served.features.select(expected.column_names).to_pydict() == expected.to_pydict()
    assert place > 0


def test_a_record_that_comes_again_changes_nothing(session: Session, database: OnlineSettings) -> None:
    """The same records taken twice leave the same states, to the byte."""
    rows = table_of(departures(np.random.default_rng(3), 80))
    keep_records(session, rows, {0: rows.num_rows})
    with connected(database) as connection:
        before = states_kept(connection, session.kept)
        change = keep_records(session, rows.slice(10, 40), {0: rows.num_rows})
        after = states_kept(connection, session.kept)

    assert (change.gone, change.come) == (0, 0)
    assert len(before) > 10
    assert after == before


def test_a_question_too_far_behind_is_refused(session: Session, database: OnlineSettings) -> None:
    """What is kept apart answers ten minutes back; before that the error names the key and the time from which it is known."""
    rows = departures(np.random.default_rng(5), 120)
    keep_records(session, table_of(rows), {0: len(rows)})
    newest = rows[-1]["recorded_at"]
    with connected(database), open_source(database, [session.kept.feed]) as source:
        reader = Reader(source, session.kept.feed.views)
        reader.read(questions(newest - timedelta(microseconds=KEPT_APART - 1)))
        with pytest.raises(BehindState, match=r"as of 2013-05-0.T.*; the online store knows it from 2013-05-0") as refused:
            reader.read(questions(newest - timedelta(days=2)))

    assert refused.value.known_from_us > refused.value.at_us


def test_old_rows_go_and_values_stay(session: Session, database: OnlineSettings) -> None:
    """Rows that no window reaches any more are removed; what is served is the same before and after, and later corrections count."""
    old, new = departures(np.random.default_rng(6), 60), departures(np.random.default_rng(7), 60)
    for row in new:
        row |= {"flight_id": f"new-{row['flight_id']}", "event_at": row["event_at"] + timedelta(days=60)}
        row |= {"recorded_at": row["recorded_at"] + timedelta(days=60)}
    keep_records(session, table_of([*old, *new]), {0: len(old) + len(new)})
    with connected(database) as connection, open_source(database, [session.kept.feed]) as source:
        reader = Reader(source, session.kept.feed.views)
        asked = questions(new[-1]["recorded_at"])
        before, held = reader.read(asked).features, rows_kept(connection, session.kept).num_rows
        forget_old(session)
        late = {**new[3], "recorded_at": new[-1]["recorded_at"] + timedelta(minutes=1), "delay_minutes": 777}
        assert reader.read(asked).features == before
        assert 0 < rows_kept(connection, session.kept).num_rows < held
        keep_records(session, table_of([late, {**old[0], "recorded_at": late["recorded_at"], "delay_minutes": 5}]), {0: 999})
        asked = questions(late["recorded_at"])
        served, whole = reader.read(asked).features, rows_kept(connection, session.kept)

    for view in session.kept.feed.views:
        expected = view_features(view, asked, whole)
        assert served.select(expected.column_names).to_pydict() == expected.to_pydict()


def test_views_that_are_not_there_are_refused_by_name(database: OnlineSettings) -> None:
    """A feed that was never built is not online; one that is being built is not read either, and says so."""
    arrivals = feed("arrivals_history")
    with online(database) as connection:
        with pytest.raises(NotOnline, match=r"arrivals_history \(destination_arrivals\) are not in the online store as they"):
            store.live(connection, arrivals)
        store.begin(connection, arrivals)
        with pytest.raises(NotOnline, match="are still being built online"):
            store.live(connection, arrivals)


def test_statuses_say_what_a_value_is_worth(session: Session, database: OnlineSettings) -> None:
    """Known and recent is fresh, known and older than promised is stale, an entity without rows unknown, a window without rows default."""
    rows = departures(np.random.default_rng(8), 40)
    keep_records(session, table_of(rows), {0: len(rows)})
    view = session.kept.feed.views[0]
    with connected(database), open_source(database, [session.kept.feed]) as source:
        reader = Reader(source, session.kept.feed.views)
        now, later = (reader.read(questions(rows[-1]["recorded_at"] + after)) for after in (timedelta(0), timedelta(days=9)))

    assert view.name == "origin_departures"
    assert set(now.statuses[view.name][:12]) == {"fresh"}
    assert set(later.statuses[view.name][:12]) == {"stale"}
    assert set(now.statuses[view.name][12:]) == {"unknown"}
    assert set(later.status_of(view, "origin_departures__flights_1h")) == {"default", "unknown"}


def test_a_state_is_opened_once_while_nothing_changes(session: Session, database: OnlineSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked again a little later nothing is opened; after an event, and once a window has moved on, values are the offline ones again."""
    rows, opened = departures(np.random.default_rng(10), 80), list[int]()
    keep_records(session, table_of(rows), {0: len(rows)})
    later = rows[-1]["recorded_at"] + timedelta(hours=7)

    def counted(layout: Layout, blobs: Sequence[bytes | None]) -> States:
        opened.append(len(blobs))
        return unpacked(layout, blobs)

    monkeypatch.setattr(read, "unpacked", counted)
    with connected(database) as connection, open_source(database, [session.kept.feed]) as source:
        reader, found = Reader(source, session.kept.feed.views), list[int]()
        for at in (later, later, later + timedelta(microseconds=1), later + timedelta(hours=1)):
            served, whole = reader.read(questions(at)), rows_kept(connection, session.kept)
            found.append(sum(opened))
            refuse_other_values(session, served, questions(at), whole)
        keep_records(session, table_of([{**rows[-1], "recorded_at": later - timedelta(hours=1), "delay_minutes": 99}]), {0: 999})
        refuse_other_values(session, reader.read(questions(at)), questions(at), rows_kept(connection, session.kept))

    assert found[0] > 0
    assert found[2] == found[0]
    assert found[3] > found[2]
    assert sum(opened) < 2 * found[3]


def refuse_other_values(session: Session, served: Served, asked: pa.Table, rows: pa.Table) -> None:
    """Fails where a view has other values than the offline kernel makes of the rows."""
    for view in session.kept.feed.views:
        expected = view_features(view, asked, rows)
        assert served.features.select(expected.column_names).to_pydict() == expected.to_pydict()


def test_keys_of_any_text_stay_apart(session: Session, database: OnlineSettings) -> None:
    """Routes with separators, quotes or signs of SQL in their parts are different entities; a NUL, and no question at all, are answered."""
    template = departures(np.random.default_rng(9), 1)[0]
    routes = [("a\x1fb", "c"), ("a", "b\x1fc"), ("a\\s", "b"), ("a", "s\\b"), ("'; drop", '"'), ("é", "🙂")]
    rows = [
        {**template, "flight_id": str(place), "origin": origin, "dest": dest, "delay_minutes": place}
        for place, (origin, dest) in enumerate(routes)
    ]
    keep_records(session, table_of(rows), {0: len(rows)})
    asked = questions(template["recorded_at"]).slice(0, 1).to_pylist()[0]
    asked_routes = [{**asked, "origin": origin, "dest": dest} for origin, dest in [*routes, ("a\0", "c")]]
    ours = pa.Table.from_pylist(asked_routes, schema=questions(asked["decision_at"]).schema)
    with connected(database), open_source(database, [session.kept.feed]) as source:
        reader = Reader(source, session.kept.feed.views)
        served, nothing = reader.read(ours), reader.read(ours.slice(0, 0))

    delays = [None if row["is_cancelled"] else float(row["delay_minutes"]) for row in rows]
    assert served.features["route_departures__delay_mean_7d"].to_pylist() == [*delays, None]
    assert served.statuses["route_departures"][-1] == "unknown"
    assert nothing.features.num_rows == 0


def test_defaults_are_served_as_the_past_has_them(database: OnlineSettings) -> None:
    """Of entities that are unknown or null, and of values that have left their windows: the declared default, counted as such."""
    declared = feed("departures_history")
    views = tuple(
        replace(view, features=tuple(one if one.name == "flights" else replace(one, default=-1.5) for one in view.features))
        for view in declared.views
    )
    rows, defaulted = departures(np.random.default_rng(8), 80), replace(declared, views=views)
    with online(database) as connection:
        store.go_live(connection, store.begin(connection, defaulted))
        kept = store.live(connection, defaulted)
    asked = questions(rows[-1]["recorded_at"] + timedelta(hours=2))
    with open_session(database, kept) as session, connected(database) as connection, open_source(database, [defaulted]) as source:
        keep_records(session, table_of(rows), {0: len(rows)})
        found, whole = Reader(source, views).read(asked), rows_kept(connection, kept)
    statuses = found.status_of(views[0], "origin_departures__delay_mean_1h")
    values = found.features["origin_departures__delay_mean_1h"].to_pylist()

    for view in views:
        expected = view_features(view, asked, whole)
        assert found.features.select(expected.column_names).to_pydict() == expected.to_pydict()
    assert sum(column.null_count for column in found.features.columns) == 0
    assert {status for status, value in zip(statuses, values, strict=True) if value == -1.5} >= {"unknown", "default"}
