"""What the rows of a day were made from: a digest that follows the view and the files of its events, and nothing else."""

from dataclasses import replace
from datetime import date, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_assets.processing.features.inputs import digests, first_event_day
from pipeline_assets.processing.lake.files import Content
from pipeline_assets.spec.features import FeatureView, Latest
from pipeline_assets_tests.feature_tables import DAY, HOUR, NOON, view_of, windowed

TODAY = NOON.date()
YESTERDAY, TOMORROW = TODAY - DAY, TODAY + DAY
VIEW = view_of(windowed("sum", "amount", 3 * HOUR), Latest(name="color", column="color", values=("red",), ttl=HOUR))


def file(digest: str, first: timedelta, last: timedelta) -> Content:
    """A file with events from `first` to `last` after noon."""
    return Content(digest=digest, rows=2, first_at=NOON + first, last_at=NOON + last)


@st.composite
def files(draw: st.DrawFn) -> list[Content]:
    """Files of a table in any order: of a day each, of several days, or without bounds."""
    found = []
    for number in range(draw(st.integers(0, 8))):
        first = draw(st.integers(-100, 100))
        known = file(f"d{number}", first * HOUR, (first + draw(st.integers(0, 40))) * HOUR)
        found.append(draw(st.sampled_from([known, known, replace(known, first_at=None, last_at=None)])))
    return found


def digest(contents: list[Content], view: FeatureView = VIEW, day: date = TODAY) -> str:
    """The digest of one day alone."""
    return digests(view, contents, [day])[day]


@settings(max_examples=60)
@given(contents=files(), data=st.data())
def test_the_order_of_files_makes_no_difference(contents: list[Content], data: st.DataObject) -> None:
    """The same files in another order, and other days asked for beside, give the same digest of a day."""
    shuffled = data.draw(st.permutations(contents))

    assert digest(list(shuffled)) == digest(contents)
    assert digests(VIEW, contents, [YESTERDAY, TODAY, TOMORROW])[TODAY] == digest(contents)


@settings(max_examples=200)
@given(contents=files(), position=st.integers(0, 10_000))
def test_files_that_the_day_can_see_make_a_difference(contents: list[Content], position: int) -> None:
    """Without one of the files, or with other bytes in it, the digest is another one, if it may have events that the day looks back to."""
    if not contents:
        return
    place = position % len(contents)
    one, others = contents[place], [*contents[:place], *contents[place + 1 :]]
    first = first_event_day(VIEW, TODAY)
    assert first is not None
    days = [first + number * DAY for number in range((TODAY - first).days + 1)]
    spans = one.first_at is None or one.last_at is None or any(one.first_at.date() <= day <= one.last_at.date() for day in days)

    assert (digest(others) != digest(contents)) == spans
    assert (digest([*others, replace(one, digest="other")]) != digest(contents)) == spans


@pytest.mark.parametrize(
    "changed",
    [
        replace(VIEW, features=VIEW.features[:1]),
        replace(VIEW, source=replace(VIEW.source, known_at="event_at")),
        replace(VIEW, name="w"),
    ],
)
def test_the_declaration_makes_a_difference(changed: FeatureView) -> None:
    """Rows of an older definition are never kept, though the events are the same."""
    contents = [file("d", -HOUR, HOUR)]

    assert digest(contents, changed) != digest(contents)


def test_words_make_no_difference() -> None:
    """Another owner or description computes nothing anew."""
    contents = [file("d", -HOUR, HOUR)]

    assert digest(contents, replace(VIEW, owner="team:other", description="Other words.")) == digest(contents)


def test_a_view_without_a_limit_sees_all_that_happened() -> None:
    """A latest value that never gets too old depends on events of any day before."""
    view = view_of(Latest(name="color", column="color", values=("red",)))
    old = [file("d", -4000 * DAY, -3999 * DAY)]

    assert first_event_day(view, TODAY) is None
    assert digest(old, view) != digest([], view)
    assert digest(old) == digest([])


def test_the_first_event_day_is_that_of_the_oldest_event_that_counts() -> None:
    """Three hours and a tile before midnight is the day before; a day and more is the day before that."""
    assert first_event_day(VIEW, TODAY) == YESTERDAY
    assert first_event_day(view_of(windowed("count", None, DAY)), TODAY) == TODAY - timedelta(days=2)
