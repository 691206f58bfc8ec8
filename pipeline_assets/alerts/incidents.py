"""What is wrong, since when and how often: findings become news, one for each cause as it begins and one as it is over. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from pipeline_assets.core.foreign import in_page, masked
from pipeline_assets.core.retries import BACK_OFF

Kind = Literal["begun", "still", "over", "closed", "decided"]
# What was well for so long is over; a check that fails every other minute is one cause.
OVER_AFTER = timedelta(minutes=10)
# What goes on for longer is said again so often.
SAID_AGAIN = timedelta(days=1)
# What was found neither bad nor well for so long is closed: nobody looks at it any more, as at a check that was removed.
NEITHER_FOR = timedelta(days=7)
# A run that is asked for again may wait for its turn so long; and what all tries together did not mend counts after so long.
AWAITED = timedelta(hours=1)
LONGEST_AWAITED = sum(BACK_OFF, timedelta()) + AWAITED
# So many causes are kept apart; what comes beyond them is one cause.
MOST_OPEN = 200
OTHERS = "others"
LONGEST_TITLE, LONGEST_DETAIL = 200, 600


@dataclass(frozen=True, kw_only=True)
class Finding:
    """That a cause is there, or there no more, as an event said it at `at` (UTC).

    `counts_at` is when it counts (UTC; None: at once), as it may be mended before. `cause` names it for good: what is found again under it
    is the same. `detail` and `title` may be foreign text. `owners` are those of the assets concerned, as declared. `run` is the run that
    failed, of a cause that a run ends. What `is_once` is said once and not kept, as nothing ends it.
    """

    cause: str
    is_bad: bool
    at: datetime
    title: str = ""
    detail: str = ""
    remedy: str = ""
    link: str = ""
    owners: tuple[str, ...] = ()
    counts_at: datetime | None = None
    run: str = ""
    is_once: bool = False

    def is_awaited(self, now: datetime) -> bool:
        """Whether it does not count yet."""
        return self.counts_at is not None and self.counts_at > now


@dataclass(frozen=True, kw_only=True)
class Incident:
    """A cause that is not over: since when, how often it was found, when last, and since when it is well again, if it is (all UTC)."""

    finding: Finding
    since: datetime
    count: int
    said_at: datetime
    last_at: datetime
    well_since: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class News:
    """What is to be said of a cause, once: `count` is how often it was found since `since`."""

    kind: Kind
    finding: Finding
    since: datetime
    count: int = 1


Open = Mapping[str, Incident]


def safe(finding: Finding) -> Finding:
    """A finding whose texts are one line each, of bounded length, and free of secrets, tags and signs that steer what shows them."""
    title, detail, remedy = (in_page(masked(text), longest) for text, longest in _texts(finding))
    return replace(finding, title=title, detail=detail, remedy=remedy)


def _texts(finding: Finding) -> tuple[tuple[str, int], ...]:
    return (finding.title, LONGEST_TITLE), (finding.detail, LONGEST_DETAIL), (finding.remedy, LONGEST_DETAIL)


def counted(awaited: Mapping[str, Finding], findings: Iterable[Finding], now: datetime) -> tuple[list[Finding], dict[str, Finding]]:
    """The findings that count by now, and by cause those that are awaited, as they may be mended before.

    A later finding of the same cause takes the place of one that is awaited: it was tried again, and went well or not. One that did not is
    of the time of the first, and is awaited for `LONGEST_AWAITED` after it at most, however often it is found meanwhile.
    Of more causes than `MOST_OPEN` the later ones count at once.
    """
    left, found = dict(awaited), list[Finding]()
    for finding in findings:
        before = left.pop(finding.cause, None)
        one = finding if before is None or not finding.is_bad else _again(before, finding)
        if one.is_awaited(now) and len(left) < MOST_OPEN:
            left[one.cause] = safe(one)
        else:
            found.append(one)
    due = [one for one in left.values() if not one.is_awaited(now)]
    return [*found, *due], {cause: one for cause, one in left.items() if one.is_awaited(now)}


def _again(before: Finding, finding: Finding) -> Finding:
    counts_at = None if finding.counts_at is None else min(finding.counts_at, before.at + LONGEST_AWAITED)
    return replace(finding, at=before.at, counts_at=counts_at)


def observed(known: Open, findings: Iterable[Finding], now: datetime) -> tuple[dict[str, Incident], list[News]]:
    """The causes that are open after these findings, which are in the order of events, and what is to be said.

    A cause is said as it begins, again after a day, and as it is over: well for `OVER_AFTER`, or not looked at for `NEITHER_FOR`.
    """
    found, news = dict(known), list[News]()
    for finding in findings:
        cause = finding.cause if finding.cause in found or len(found) < MOST_OPEN or not finding.is_bad else OTHERS
        before = found.get(cause)
        if finding.is_bad and finding.is_once:
            news.append(News(kind="begun", finding=safe(finding), since=finding.at))
        elif finding.is_bad and before is None:
            found[cause] = Incident(finding=_short(finding, cause), since=finding.at, count=1, said_at=now, last_at=now)
            news.append(News(kind="begun", finding=replace(safe(finding), cause=cause), since=finding.at))
        elif finding.is_bad and before is not None:
            found[cause] = replace(before, finding=_short(finding, cause), count=before.count + 1, last_at=now, well_since=None)
        elif before is not None and before.well_since is None:
            found[cause] = replace(before, well_since=finding.at)
    others = found.get(OTHERS)
    if others is not None and others.well_since is None and len(found) <= MOST_OPEN:
        found[OTHERS] = replace(others, well_since=now)
    return _settled(found, news, now)


def _short(finding: Finding, cause: str) -> Finding:
    """What is kept of a finding: without what its first message said at length."""
    return replace(safe(replace(finding, detail="", remedy="")), cause=cause)


def _settled(found: dict[str, Incident], news: list[News], now: datetime) -> tuple[dict[str, Incident], list[News]]:
    """The same without what is over, and with what goes on said again."""
    left = dict[str, Incident]()
    for cause, one in found.items():
        kind = _kind(one, now)
        if kind is not None:
            news.append(News(kind=kind, finding=one.finding, since=one.since, count=one.count))
        if kind is None or kind == "still":
            left[cause] = one if kind is None else replace(one, said_at=now)
    return left, news


def _kind(one: Incident, now: datetime) -> Kind | None:
    """What is to be said of a cause now, if anything."""
    if one.well_since is not None:
        return "over" if now - one.well_since >= OVER_AFTER else None
    if now - one.last_at >= NEITHER_FOR:
        return "closed"
    return "still" if now - one.said_at >= SAID_AGAIN else None


def decided(finding: Finding) -> News:
    """What is said of a decision: it is no trouble, and never over."""
    return News(kind="decided", finding=safe(finding), since=finding.at)


def dumped(value: Finding | Incident | News) -> dict[str, Any]:
    """A value as JSON has it."""
    return {name: _plain(one) for name, one in asdict(value).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return {name: _plain(one) for name, one in value.items()} if isinstance(value, dict) else value


def finding_of(stored: Mapping[str, Any]) -> Finding:
    """A finding from what was stored; raises TypeError, ValueError or KeyError where it is damaged."""
    counts_at = None if stored["counts_at"] is None else datetime.fromisoformat(stored["counts_at"])
    return Finding(**{**stored, "at": datetime.fromisoformat(stored["at"]), "counts_at": counts_at, "owners": tuple(stored["owners"])})


def incident_of(stored: Mapping[str, Any]) -> Incident:
    """The same of an incident."""
    well = stored["well_since"]
    times = {name: datetime.fromisoformat(stored[name]) for name in ("since", "said_at", "last_at")}
    return Incident(
        finding=finding_of(stored["finding"]),
        count=int(stored["count"]),
        well_since=None if well is None else datetime.fromisoformat(well),
        **times,
    )


def news_of(stored: Mapping[str, Any]) -> News:
    """The same of news."""
    since = datetime.fromisoformat(stored["since"])
    return News(kind=stored["kind"], finding=finding_of(stored["finding"]), since=since, count=int(stored["count"]))
