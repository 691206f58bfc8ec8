"""What the rows of a feature table were made from, day by day, so that rows are computed again only where that has changed."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from hashlib import sha256

from pipeline_assets.processing.features.catalogue import definition_hash, lookback, view_hash
from pipeline_assets.processing.features.cleaned import midnight
from pipeline_assets.processing.lake.files import Content
from pipeline_assets.spec.features import FeatureView
from pipeline_assets.spec.models import Model, Observations

ONE_DAY = timedelta(days=1)
DIGITS = 32


def first_event_day(view: FeatureView, first: date) -> date | None:
    """The day of the first event that a decision of the day `first` could count; None if there is no limit."""
    since = _since(lookback(view), first)
    return None if since is None else since.date()


def digests(view: FeatureView, contents: Sequence[Content], days: Sequence[date]) -> dict[date, str]:
    """Of each day a digest of everything that its features depend on: the view's declaration, and the files that it can look back to.

    contents: the files of the view's source, with the bounds of its `event_at`; none of them is read. The same files give the same digest,
    whichever days are asked for beside; another file that holds an event which the day can see gives another one, also where no feature
    comes out differently.
    """
    declared, span = view_hash(view), lookback(view)
    return {day: _of_files(declared, _within(contents, _since(span, day), midnight(day + ONE_DAY))) for day in days}


def of_observations(model: Model, contents: Sequence[Content], days: Sequence[date]) -> dict[date, str]:
    """Of each day a digest of what its decisions depend on: the inputs as declared, and the files that may hold an observation of the day.

    contents: the files of the observations, with the bounds of their `decision_at`.
    """
    declared = definition_hash(model)
    return {day: _of_files(declared, decided(contents, day, day)) for day in days}


def of_requests(view: FeatureView, asked: Sequence[tuple[Observations, Sequence[Content]]], days: Sequence[date]) -> dict[date, str]:
    """Of each day a digest of what the rows that are asked for depend on: the view's keys, and the observations as in `of_observations`.

    asked: all observations for which the view is computed, each with its files.
    """
    declared = [repr((view.entity.keys, one.table, one.keys, one.decision_at, one.versions)) for one, _ in asked]
    files = zip(declared, (contents for _, contents in asked), strict=True)
    of_each = [{day: _of_files(text, decided(contents, day, day)) for day in days} for text, contents in files]
    return {day: sha256(" ".join(sorted(each[day] for each in of_each)).encode()).hexdigest()[:DIGITS] for day in days}


def decided(contents: Sequence[Content], first: date, last: date) -> list[Content]:
    """The files that may hold a decision of the days (UTC, inclusive); one without bounds may."""
    return _within(contents, midnight(first), midnight(last + ONE_DAY))


def _within(contents: Sequence[Content], start: datetime | None, end: datetime) -> list[Content]:
    """The files that may hold a row from `start` (None: ever) until `end`; one without bounds may."""
    recent = (each for each in contents if start is None or each.last_at is None or each.last_at >= start)
    return [each for each in recent if each.first_at is None or each.first_at < end]


def seen(view: FeatureView, contents: Sequence[Content], first: date, last: date) -> list[Content]:
    """The files that may hold an event which a decision of the days could count (UTC, inclusive); one without bounds may."""
    return _within(contents, _since(lookback(view), first), midnight(last + ONE_DAY))


def _since(span: timedelta | None, first: date) -> datetime | None:
    """From when on a decision of the day `first` could count events; None if there is no limit."""
    return None if span is None else midnight((midnight(first) - span).date())


def _of_files(definition: str, files: Sequence[Content]) -> str:
    return sha256(" ".join([definition, *sorted(each.digest for each in files)]).encode()).hexdigest()[:DIGITS]
