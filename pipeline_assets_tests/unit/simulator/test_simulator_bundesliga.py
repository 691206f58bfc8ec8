"""The second world: real matches, with keys that tell them apart, and messages that are counted beforehand."""

import json
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from pipeline_assets.ingestion.sources.json_objects import Fault
from pipeline_assets.ingestion.streaming.decoding.formats import decoder
from pipeline_assets.spec.sources import EventStream
from pipeline_assets.use_cases.bundesliga import models, sources
from simulator.bundesliga import data
from simulator.bundesliga.messages import BREAK, FIXTURES, RESULTS, Message, messages

SEASON = (date(2006, 7, 1), date(2007, 6, 30))


def _in_any_order(sent: list[Message]) -> list[tuple[str, str, str, datetime]]:
    return sorted((one.topic, one.key, repr(one.value), one.known_at) for one in sent)


def test_matches_are_those_of_the_league() -> None:
    """Every match with a date, each once in its season, announced before it began and known after it ended."""
    matches = data.matches()

    assert matches.height == 14_016
    assert matches.select("season", "match_number").is_unique().all()
    assert matches.filter(pl.col("announcement_known_at") >= pl.col("kick_off_at")).is_empty()
    assert matches.filter(pl.col("result_known_at") < pl.col("finished_at")).is_empty()
    assert (matches["home_goals"].sum(), matches["away_goals"].sum()) == (26_603, 16_692)


def test_times_are_those_of_germany() -> None:
    """The last day of 2006/07, when Stuttgart won the league with 2:1 against Cottbus, began at half past three in Germany's summer."""
    ids = dict(data.clubs().select("name", "club_id").iter_rows())
    found = data.matches().filter(season=2006, home_id=ids["VfB Stuttgart"], away_id=ids["Energie Cottbus"])

    assert found.select("home_goals", "away_goals", "kick_off_at").rows() == [(2, 1, datetime(2007, 5, 19, 13, 30, tzinfo=UTC))]


def test_announcements_come_at_any_time_of_day() -> None:
    """Decisions are not made at one hour: every hour of the day has some."""
    assert sorted(data.matches()["announced_at"].dt.hour().unique()) == list(range(24))


def test_clubs_have_numbers_of_their_own() -> None:
    """Clubs are numbered from one, every match is one of two of them, and sixteen founded the league."""
    clubs, matches = data.clubs(), data.matches()

    assert clubs["club_id"].to_list() == list(range(1, 53))
    assert set(matches["home_id"]) | set(matches["away_id"]) == set(clubs["club_id"])
    assert matches.filter(pl.col("home_id") == pl.col("away_id")).is_empty()
    assert clubs.filter(pl.col("first_season") == 1963).height == 16


@pytest.mark.parametrize(
    ("stream", "event_at", "known_at"),
    [(sources.fixtures, "announced_at", "announcement_known_at"), (sources.results, "finished_at", "result_known_at")],
    ids=["announcements", "results"],
)
def test_late_events_keep_their_contract(stream: EventStream, event_at: str, known_at: str) -> None:
    """A few events are known most of an hour after they happened, none later than the contract allows."""
    delays: list[timedelta] = data.matches().select(pl.col(known_at) - pl.col(event_at)).to_series().to_list()
    late = [delay for delay in delays if delay > timedelta(minutes=30)]

    assert 0.01 < len(late) / len(delays) < 0.03
    assert timedelta(0) == min(delays)
    assert max(delays) <= stream.contract.lateness


def test_results_are_known_within_the_horizon_of_the_label() -> None:
    """A label has matured when its horizon is over, late results included, and a decision comes no later than is declared."""
    model, times = models.match_outcome, data.matches()
    took: list[timedelta] = (times["result_known_at"] - times["announcement_known_at"]).to_list()
    behind: list[timedelta] = (times["announcement_known_at"] - times["announced_at"]).to_list()

    assert timedelta(weeks=3) < max(took) <= model.label.horizon
    assert max(behind) <= model.observations.behind


def test_messages_have_the_fields_of_their_contracts() -> None:
    """A span has each event of its days, in the order in which they were known, with the fields of the contract of its topic."""
    sent = messages(*SEASON)
    expected = {
        FIXTURES: {field.name for field in sources.fixtures.contract.fields},
        RESULTS: {field.name for field in sources.results.contract.fields},
    }
    found = {(one.topic, frozenset(json.loads(one.value or b""))) for one in sent if not one.is_broken}

    assert found == {(topic, frozenset(fields)) for topic, fields in expected.items()}
    assert [one.known_at for one in sent] == sorted(one.known_at for one in sent)


@pytest.mark.parametrize("topic", [FIXTURES, RESULTS])
def test_a_season_has_some_events_twice_and_each_fault(topic: str) -> None:
    """Of 306 matches seven are sent twice, the same bytes again, and five messages are broken, each in its own way."""
    sent = [one for one in messages(*SEASON) if one.topic == topic]
    events = [one for one in sent if not one.is_broken]

    assert (len(events), len(set(events)), len({one.key for one in events})) == (313, 306, 306)
    assert sorted(one.fault or "" for one in sent if one.is_broken) == sorted(BREAK)
    assert {one.key for one in sent if one.is_broken}.isdisjoint(one.key for one in events)


def test_a_match_is_the_same_message_in_every_span() -> None:
    """Regression: what was sent twice or broken depended on where a span began, so that sending in parts made other messages."""
    seam = date(2006, 10, 12)
    parts = messages(SEASON[0], seam) + messages(seam + timedelta(days=1), SEASON[1])

    assert _in_any_order(parts) == _in_any_order(messages(*SEASON))


def test_only_broken_messages_are_refused_by_the_contract() -> None:
    """What is marked as broken is what cannot be decoded, or lacks a field or type that the contract requires; nothing else."""
    streams = {FIXTURES: sources.fixtures, RESULTS: sources.results}
    refused = {(one.topic, one.key) for one in messages(*SEASON) if not _is_kept(streams[one.topic], one)}

    assert refused == {(one.topic, one.key) for one in messages(*SEASON) if one.is_broken}


def _is_kept(stream: EventStream, message: Message) -> bool:
    try:
        event = decoder(stream.contract, stream.format)(message.value, {})
    except Fault:
        return False
    integers = [field.name for field in stream.contract.fields if field.type == "integer"]
    return event is not None and all(isinstance(event.values[name], int) for name in integers)
