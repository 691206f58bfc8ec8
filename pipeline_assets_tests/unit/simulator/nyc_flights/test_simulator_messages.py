"""The messages of the event topics: counted beforehand, one world with the history, and broken as announced."""

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from pipeline_assets.ingestion.sources.json_rows import check_json_rows
from pipeline_assets.spec.sources import EventStream
from pipeline_assets.use_cases.nyc_flights import use_case
from simulator.nyc_flights import breakage, data, database
from simulator.nyc_flights.messages import BREAK, EVENT_TYPES, FIELDS, UNKNOWN_FIELD, counts, messages

FIRST, LAST = date(2013, 5, 30), date(2013, 6, 2)
STREAMS: Mapping[str, EventStream] = {stream.topic: stream for stream in use_case.streams}


@pytest.fixture(scope="module")
def known() -> pl.DataFrame:
    """All flights of the year."""
    return data.flights()


@pytest.fixture(scope="module")
def sent(known: pl.DataFrame) -> pl.DataFrame:
    """The messages of four days, across the end of a month."""
    return messages(known, FIRST, LAST)


def _events(sent: pl.DataFrame, topic: str) -> list[dict[str, Any]]:
    """The distinct events of a topic, by id, without the field that nobody knows."""
    good = sent.filter((pl.col("topic") == topic) & pl.col("fault").is_null() & ~pl.col("is_repeat"))
    events = [json.loads(value) for value in good["value"]]
    return sorted(({name: event[name] for name in FIELDS[topic]} for event in events), key=lambda event: str(event["flight_id"]))


def test_the_topics_are_those_of_the_use_case() -> None:
    """The outside world and the contracts name the same topics with the same fields."""
    assert {topic: tuple(field.name for field in stream.contract.fields) for topic, stream in STREAMS.items()} == dict(FIELDS)


@pytest.mark.parametrize("topic", list(EVENT_TYPES))
def test_every_event_of_the_history_is_told_once(sent: pl.DataFrame, known: pl.DataFrame, topic: str) -> None:
    """The distinct events are the rows of the history; a late one differs by when it was recorded, and by nothing else."""
    history = database.tables(FIRST, LAST, broken=False)["flight_history"].filter(pl.col("event_type") == EVENT_TYPES[topic])
    wanted = history.sort("flight_id").select(
        pl.col(name).dt.strftime("%Y-%m-%dT%H:%M:%SZ") if name == "event_at" else pl.col(name)
        for name in FIELDS[topic]
        if name != "recorded_at"
    )
    events = _events(sent, topic)
    late = [event for event in events if event["recorded_at"] != event["event_at"]]

    assert [{name: value for name, value in event.items() if name != "recorded_at"} for event in events] == wanted.to_dicts()
    assert len(late) == counts(known, topic, FIRST, LAST).late > 0


@pytest.mark.parametrize("topic", list(EVENT_TYPES))
def test_messages_are_counted_beforehand(sent: pl.DataFrame, known: pl.DataFrame, topic: str) -> None:
    """Good, doubled, late, reordered, extended and broken messages are as many as announced, for the span and for each of its days."""
    told, own = counts(known, topic, FIRST, LAST), sent.filter(pl.col("topic") == topic)
    first = own.filter(pl.col("fault").is_null() & ~pl.col("is_repeat"))
    parts = [counts(known, topic, day, day) for day in breakage.days(FIRST, LAST)]

    assert (told.messages, told.good, told.doubled) == (own.height, first["key"].n_unique(), own["is_repeat"].sum())
    assert told.reordered == first.filter(pl.col("sent_at") > pl.col("recorded_at")).height
    assert told.extended == first.filter(pl.col("value").bin.contains(UNKNOWN_FIELD.encode())).height
    assert told.broken == dict(own.filter(pl.col("fault").is_not_null()).group_by("fault").len().rows())
    assert sum(part.messages for part in parts) == told.messages
    assert min(told.late, told.doubled, told.reordered, told.extended, *told.broken.values()) > 0


@pytest.mark.parametrize("topic", list(EVENT_TYPES))
def test_exactly_the_broken_messages_break_the_contract(sent: pl.DataFrame, topic: str) -> None:
    """What is announced as broken breaks the contract of its stream, and nothing else does: late and extended events pass."""
    own = sent.filter(pl.col("topic") == topic)
    rows = [value if value is not None else b"" for value in own["value"]]
    checked = check_json_rows(STREAMS[topic].contract, rows)

    assert {row.position for row in checked.broken} == set(own.with_row_index().filter(pl.col("fault").is_not_null())["index"])
    assert set(own["fault"].drop_nulls()) == set(BREAK)


def test_every_day_stays_far_below_the_share_that_may_be_broken(known: pl.DataFrame) -> None:
    """No day of the year has more than half of the broken messages that its contract lets pass."""
    shares = [
        sum(told.broken.values()) / told.messages / STREAMS[topic].contract.broken_share
        for topic in EVENT_TYPES
        for day in list(breakage.days(data.FIRST_DAY, data.LAST_DAY))[::30]
        if (told := counts(known, topic, day, day)).messages
    ]

    assert max(shares) <= 1 / 2


def test_messages_are_sent_in_the_order_in_which_they_became_known(sent: pl.DataFrame) -> None:
    """Only doubled and reordered ones come behind their time, by less than half an hour; a late one comes at the time it was recorded."""
    behind = sent["sent_at"] - sent["recorded_at"]
    late = sent.filter(pl.col("recorded_at").dt.date() > pl.col("day"))

    assert sent["sent_at"].is_sorted()
    assert behind.is_between(timedelta(0), timedelta(minutes=30), closed="left").all()
    assert late.height > 0


def test_a_repeat_has_the_bytes_and_the_time_of_the_first(sent: pl.DataFrame) -> None:
    """Key, value and time of a repeat are those of the message before, as where a producer tries again."""
    same = ["topic", "key", "value", "recorded_at"]
    repeats = sent.filter("is_repeat").select(same).sort(same)
    firsts = sent.filter(~pl.col("is_repeat")).join(repeats, on=["topic", "key"], how="semi").select(same).sort(same)

    assert repeats.equals(firsts)


def test_the_same_span_is_told_in_the_same_way(sent: pl.DataFrame, known: pl.DataFrame) -> None:
    """Messages are the same whenever they are asked for, also for one topic or one day of them."""
    arrivals = messages(known, FIRST, FIRST, ["flight-arrivals"])
    part = sent.filter((pl.col("topic") == "flight-arrivals") & (pl.col("day") == FIRST))

    assert messages(known, FIRST, LAST).equals(sent)
    assert arrivals.equals(part)


def test_history_and_stream_meet_at_a_seam(known: pl.DataFrame) -> None:
    """The history up to a day and the messages from that day on have each event of the whole once, without gap or double."""
    seam = date(2013, 6, 1)
    whole = database.tables(FIRST, LAST, broken=False)["flight_history"]
    before = database.tables(FIRST, LAST, broken=False, stream_from=seam)["flight_history"]
    after = messages(known, seam, LAST)
    streamed = after.filter(pl.col("fault").is_null() & ~pl.col("is_repeat"))
    told = [(flight_id, event_type) for flight_id, event_type in before.select("flight_id", "event_type").iter_rows()]
    told += [(key, EVENT_TYPES[topic]) for topic, key in streamed.select("topic", "key").iter_rows()]

    assert (before["recorded_at"] < datetime(2013, 6, 1, tzinfo=UTC)).all()
    assert (streamed["recorded_at"] >= datetime(2013, 6, 1, tzinfo=UTC)).all()
    assert sorted(told) == sorted(whole.select("flight_id", "event_type").rows())


def test_days_without_events_have_no_messages(known: pl.DataFrame) -> None:
    """Where nothing happened nothing is sent, and the columns are the same."""
    nothing = messages(known, data.FIRST_DAY - timedelta(days=9), data.FIRST_DAY - timedelta(days=8))

    assert nothing.height == 0
    assert nothing.columns == messages(known, FIRST, FIRST).columns
