"""The second world: real matches, with keys that tell them apart, and messages that are counted beforehand."""

import json
from datetime import date

import polars as pl

from pipeline_assets.use_cases.bundesliga import sources
from simulator.bundesliga import data
from simulator.bundesliga.messages import FIXTURES, RESULTS, messages


def test_matches_are_those_of_the_league() -> None:
    """Every match with a date, each once in its season, announced before it began and known after it ended."""
    matches = data.matches()

    assert matches.height == 14_016
    assert matches.select("season", "match_number").is_unique().all()
    assert matches.filter(pl.col("announcement_known_at") >= pl.col("kick_off_at")).is_empty()
    assert matches.filter(pl.col("result_known_at") < pl.col("finished_at")).is_empty()
    assert (matches["home_goals"].sum(), matches["away_goals"].sum()) == (26_603, 16_692)


def test_announcements_come_at_any_time_of_day() -> None:
    """Decisions are not made at one hour: every hour of the day has some."""
    assert sorted(data.matches()["announced_at"].dt.hour().unique()) == list(range(24))


def test_messages_have_the_fields_of_their_contracts() -> None:
    """A span has each event of its days, some twice, some with a broken copy, in the order in which they were known."""
    sent = messages(date(2006, 8, 1), date(2006, 11, 30))
    expected = {
        FIXTURES: {field.name for field in sources.fixtures.contract.fields},
        RESULTS: {field.name for field in sources.results.contract.fields},
    }

    assert {one.topic: set(json.loads(one.value)) for one in sent} == expected
    assert [one.known_at for one in sent] == sorted(one.known_at for one in sent)
    assert len(sent) > len({(one.topic, one.key, one.is_broken) for one in sent})
    assert any(one.is_broken for one in sent)
