"""What the rows of a feature table were made from, day by day, so that rows are computed again only where that has changed."""

from collections.abc import Sequence
from datetime import date, timedelta
from hashlib import sha256

from pipeline_assets.processing.features.catalogue import lookback, view_hash
from pipeline_assets.processing.features.cleaned import midnight
from pipeline_assets.processing.lake.files import Content
from pipeline_assets.spec.features import FeatureView

ONE_DAY = timedelta(days=1)


def first_event_day(view: FeatureView, first: date) -> date | None:
    """The day of the first event that a decision of the day `first` could count; None if there is no limit."""
    span = lookback(view)
    return None if span is None else (midnight(first) - span).date()


def digests(view: FeatureView, contents: Sequence[Content], days: Sequence[date]) -> dict[date, str]:
    """Of each day a digest of everything that its features depend on: the view's declaration, and the files that it can look back to.

    contents: the files of the view's source, with the bounds of its `event_at`; none of them is read. The same files give the same digest,
    whichever days are asked for beside; another file that holds an event which the day can see gives another one, also where no feature
    comes out differently.
    """
    return {day: _digest(view, sorted(each.digest for each in seen(view, contents, day, day))) for day in days}


def seen(view: FeatureView, contents: Sequence[Content], first: date, last: date) -> list[Content]:
    """The files that may hold an event which a decision of the days could count (UTC, inclusive); one without bounds may."""
    since = first_event_day(view, first)
    start, end = None if since is None else midnight(since), midnight(last + ONE_DAY)
    recent = (each for each in contents if start is None or each.last_at is None or each.last_at >= start)
    return [each for each in recent if each.first_at is None or each.first_at < end]


def _digest(view: FeatureView, files: Sequence[str]) -> str:
    return sha256(" ".join([view_hash(view), *files]).encode()).hexdigest()[:32]
