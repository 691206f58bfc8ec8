"""Causes from their beginning to their end: what is said of them, how often, and what of foreign text stands in it."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.alerts.incidents import (
    LONGEST_AWAITED,
    LONGEST_DETAIL,
    MOST_OPEN,
    NEITHER_FOR,
    OVER_AFTER,
    SAID_AGAIN,
    Finding,
    Incident,
    News,
    counted,
    dumped,
    incident_of,
    news_of,
    observed,
    safe,
)

START = datetime(2024, 5, 1, 12, tzinfo=UTC)


def finding(cause: str, minutes: float, *, is_bad: bool = True, text: str = "it broke") -> Finding:
    """A cause that is there, or no more, so many minutes after the start."""
    at = START + timedelta(minutes=minutes)
    return Finding(
        cause=cause, is_bad=is_bad, at=at, title=cause, detail=text, remedy=text, link="http://x/runs/1", owners=("me@x.example",)
    )


def said(findings: Sequence[Finding], minutes: Sequence[float]) -> list[News]:
    """What is said at looks so many minutes after the start, each of which sees what was found until then."""
    known, news, seen = dict[str, Incident](), list[News](), 0
    for minute in minutes:
        now = START + timedelta(minutes=minute)
        new = [one for one in findings[seen:] if one.at <= now]
        known, more = observed(known, new, now)
        news, seen = [*news, *more], seen + len(new)
    return news


def test_a_cause_is_said_once_however_often_it_is_found_and_once_as_it_is_over() -> None:
    """The second message has the count, and comes when the cause was well for ten minutes."""
    broken = [finding("a", minute) for minute in range(30)]
    news = said([*broken, finding("a", 30, is_bad=False)], [*range(39), 40, 41])

    assert [(one.kind, one.count, one.since) for one in news] == [("begun", 1, START), ("over", 30, START)]


def test_a_cause_that_comes_and_goes_is_one() -> None:
    """What is well for less than ten minutes is not over; each time it is found again counts."""
    findings = [finding("a", minute, is_bad=minute % 2 == 0) for minute in range(60)]
    news = said(findings, [*range(60), 69, 70])

    assert [(one.kind, one.count) for one in news] == [("begun", 1), ("over", 30)]


def mended_until(minutes: float, until: float) -> Finding:
    """A cause that is there, and may be mended until so many minutes after the start."""
    return replace(finding("a", minutes), counts_at=START + timedelta(minutes=until))


def test_what_may_be_mended_counts_once_its_time_has_come() -> None:
    """A later finding of the cause takes its place, good or bad; it began with the first. All else counts at once."""
    later, other, well, last = mended_until(0, 30), finding("b", 0), finding("a", 2, is_bad=False), finding("a", 2)
    now = START + timedelta(minutes=2)

    assert counted({}, [later, other], now) == ([other], {"a": later})
    assert counted({"a": later}, [well], now) == ([well], {})
    assert counted({"a": later}, [last], now) == ([replace(last, at=START)], {})
    assert counted({"a": later}, [mended_until(2, 40)], now) == ([], {"a": mended_until(0, 40)})
    assert counted({"a": later}, [], START + timedelta(minutes=30)) == ([later], {})


def test_what_fails_again_and_again_is_not_put_off_for_ever() -> None:
    """Regression: a job that is asked for anew each half an hour had no last try, and each first one put the alert off."""
    awaited, found, now = dict[str, Finding](), list[Finding](), START
    while not found:
        found, awaited = counted(awaited, [replace(finding("a", 0), at=now, counts_at=now + timedelta(hours=1))], now)
        now += timedelta(minutes=30)

    assert LONGEST_AWAITED <= now - timedelta(minutes=30) - START < LONGEST_AWAITED + timedelta(minutes=30)
    assert [one.at for one in found] == [START]
    assert awaited == {}


def test_what_goes_on_for_a_day_is_said_again() -> None:
    """Once a day, with the count; also where nothing new is found."""
    day = SAID_AGAIN.total_seconds() / 60

    assert [(one.kind, one.count) for one in said([finding("a", 0), finding("a", 5)], [0, 5, day - 1, day, day + 1, 2 * day])] == [
        ("begun", 1),
        ("still", 2),
        ("still", 2),
    ]


def test_a_flood_of_causes_is_bounded() -> None:
    """Those beyond the limit are one cause, and what is known goes on."""
    known, news = observed({}, [finding(f"cause {number}", 0) for number in range(MOST_OPEN + 50)], START)

    assert len(known) == MOST_OPEN + 1
    assert len(news) == MOST_OPEN + 1
    assert max(one.count for one in known.values()) == 50


def test_what_is_beyond_the_limit_is_over_once_there_is_room() -> None:
    """Regression: no event ends the cause of all others, so that it was said each day for ever."""
    causes = [f"cause {number}" for number in range(MOST_OPEN + 1)]
    well = [finding(cause, 1, is_bad=False) for cause in causes[:2]]
    news = said([*(finding(cause, 0) for cause in causes), *well], [0, 1, 12, 13, 23])

    assert len([one for one in news if one.kind == "begun"]) == MOST_OPEN + 1
    assert [one.finding.cause for one in news if one.kind == "over"] == ["cause 0", "cause 1", "others"]


def test_of_what_is_open_no_long_text_is_kept() -> None:
    """The cursor is written at each look: a cause keeps its title and link. What was found and is to be done is in its first message."""
    known, news = observed({}, [finding("a", 0), finding("a", 1), finding("b", 1)], START)

    assert [(one.finding.detail, one.finding.remedy) for one in news] == [("it broke", "it broke")] * 2
    assert [(one.finding.title, one.finding.link, one.finding.detail, one.finding.remedy) for one in known.values()] == [
        ("a", "http://x/runs/1", "", ""),
        ("b", "http://x/runs/1", "", ""),
    ]


def test_what_nobody_looks_at_any_more_is_closed_aloud() -> None:
    """Regression: the cause of a check that was removed, or of a job, was said each day for ever. One that is still found is not closed."""
    days = NEITHER_FOR.days
    found = [finding("gone", 0), *(finding("there", 24 * 60 * day) for day in range(2 * days))]
    news = said(found, [24 * 60 * day for day in range(2 * days)])

    assert [one.kind for one in news if one.finding.cause == "gone"] == ["begun", *["still"] * (days - 1), "closed"]
    assert [one.kind for one in news if one.finding.cause == "there"] == ["begun", *["still"] * (2 * days - 1)]


def test_what_nothing_can_end_is_said_once() -> None:
    """It is not kept open."""
    assert observed({}, [replace(finding("a", 0), is_once=True)] * 2, START)[0] == {}
    assert [one.kind for one in said([replace(finding("a", 0), is_once=True)], [0, 10_000, 20_000])] == ["begun"]


def test_foreign_text_is_one_line_without_tags_and_secrets() -> None:
    """Neither terminals nor pages nor people of a channel are steered by what a source or a server said."""
    hostile = "<!channel> \x1b[2J\r\nNEW: all is well, password=hunter2hunter2 " + "x" * 10_000
    text = safe(finding("a", 0, text=hostile))

    assert not {"<", ">", "\x1b", "\n", "\r"} & {*text.detail, *text.remedy, *text.title}
    assert "hunter2" not in text.detail
    assert len(text.detail) < LONGEST_DETAIL + 100


events = st.lists(
    st.tuples(st.sampled_from("abc"), st.booleans(), st.floats(0, 60, allow_nan=False)), max_size=40
).map(lambda found: sorted(found, key=lambda one: one[2]))  # fmt: skip


@given(events=events, looks=st.lists(st.floats(0, 60, allow_nan=False), max_size=20))
def test_nothing_is_lost_or_said_twice(events: list[tuple[str, bool, float]], looks: list[float]) -> None:
    """Each cause is said as it begins and as it ends in turn, and counts of all that ended are all times that it was found.

    The oracle goes through the events of each cause by itself.
    """
    findings = [finding(cause, minute, is_bad=is_bad) for cause, is_bad, minute in events]
    news = said(findings, [*sorted(looks), 61, 62 + OVER_AFTER.total_seconds() / 60])

    for cause in "abc":
        kinds = [one.kind for one in news if one.finding.cause == cause]
        found = [is_bad for name, is_bad, _ in events if name == cause]
        is_open = bool(found) and any(found) and found[-1]
        assert kinds == (["begun", "over"] * len(kinds))[: len(kinds)]
        assert bool(kinds) == any(found)
        assert not kinds or (kinds[-1] == "begun") == is_open
        ended = sum(one.count for one in news if one.finding.cause == cause and one.kind == "over")
        assert ended == sum(found) if not is_open else ended <= sum(found)


def test_what_is_kept_between_looks_comes_back_as_it_was() -> None:
    """Incidents and news pass through JSON."""
    known, news = observed({}, [finding("a", 0), finding("a", 1, is_bad=False)], START)

    assert incident_of(json.loads(json.dumps(dumped(known["a"])))) == known["a"]
    assert [news_of(json.loads(json.dumps(dumped(one)))) for one in news] == news
