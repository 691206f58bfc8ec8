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
    return {day: _digest(view, sorted(each.digest for each in contents if is_seen(view, each, day, day))) for day in days}


def is_seen(view: FeatureView, content: Content, first: date, last: date) -> bool:
    """Whether a file may hold an event that a decision of the days could count (UTC, inclusive); one without bounds may."""
    since = first_event_day(view, first)
    is_too_old = content.last_at is not None and since is not None and content.last_at < midnight(since)
    return not is_too_old and (content.first_at is None or content.first_at < midnight(last + ONE_DAY))


def _digest(view: FeatureView, seen: Sequence[str]) -> str:
    return sha256(" ".join([view_hash(view), *seen]).encode()).hexdigest()[:32]
