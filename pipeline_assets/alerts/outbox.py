"""What has to be sent to whom: by owner, one message for all that is new, tried again later each time, and given up aloud. Pure."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from pipeline_assets.alerts.incidents import NEITHER_FOR, News, dumped, news_of

EVERYONE = "*"
# How long after a failed try the next one comes; the last stands for all later ones.
BACK_OFF = tuple(timedelta(minutes=minutes) for minutes in (1, 2, 5, 15, 60))
# What could not be delivered for so long is given up, and the next message says how many were.
GIVEN_UP_AFTER = timedelta(days=3)
MOST_WAITING, MOST_SHOWN, DIGITS = 50, 20, 12
WORDS = {"begun": "NEW", "still": "STILL", "over": "OVER", "closed": "CLOSED", "decided": "DECIDED"}


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """What waits for one endpoint: its news in their order, tries in vain, since when, when next, and how many were lost."""

    news: tuple[News, ...] = ()
    tries: int = 0
    since: datetime | None = None
    next_at: datetime | None = None
    lost: int = 0


@dataclass(frozen=True, kw_only=True)
class Message:
    """A text for an endpoint; the same news have the same `number`, so that a receiver knows one that came a second time."""

    number: str
    title: str
    body: str


Outbox = Mapping[str, Waiting]


def endpoint_of(url: str) -> str:
    """The name of an endpoint, which is kept and shown where its URL, a secret, is not."""
    return sha256(url.encode()).hexdigest()[:DIGITS]


def routed(news: News, urls: Mapping[str, Sequence[str]]) -> set[str]:
    """The endpoints that news go to: those of their owners; for an owner that has none, and where there is no owner, those of `*`."""
    chosen = [urls.get(owner) or urls.get(EVERYONE, ()) for owner in news.finding.owners or (EVERYONE,)]
    return {endpoint_of(url) for each in chosen for url in each}


def put(outbox: Outbox, news: Iterable[News], urls: Mapping[str, Sequence[str]]) -> dict[str, Waiting]:
    """The outbox with news for each endpoint that they go to; more than `MOST_WAITING` push out the oldest, which count as lost.

    What waits for an endpoint that is no longer named is dropped with it.
    """
    named = {endpoint_of(url) for each in urls.values() for url in each}
    found = {endpoint: waiting for endpoint, waiting in outbox.items() if endpoint in named}
    for one in news:
        for endpoint in routed(one, urls):
            before = found.get(endpoint, Waiting())
            kept = (*before.news, one)
            gone = max(len(kept) - MOST_WAITING, 0)
            found[endpoint] = replace(before, news=kept[gone:], lost=before.lost + gone)
    return found


def due(outbox: Outbox, now: datetime) -> list[str]:
    """The endpoints that something is to be sent to now."""
    return sorted(name for name, one in outbox.items() if one.news and (one.next_at is None or one.next_at <= now))


def delivered(outbox: Outbox, endpoint: str) -> dict[str, Waiting]:
    """The outbox once an endpoint has what waited for it."""
    return {name: one for name, one in outbox.items() if name != endpoint}


def failed(outbox: Outbox, endpoint: str, now: datetime) -> dict[str, Waiting]:
    """The outbox after an endpoint did not take its message: it is tried later, or given up and counted."""
    before = outbox[endpoint]
    since = before.since or now
    if now - since >= GIVEN_UP_AFTER:
        return {**outbox, endpoint: Waiting(lost=before.lost + len(before.news))}
    wait = BACK_OFF[min(before.tries, len(BACK_OFF) - 1)]
    return {**outbox, endpoint: replace(before, tries=before.tries + 1, since=since, next_at=now + wait)}


def message(waiting: Waiting, pages: str) -> Message:
    """One message with all that waits for an endpoint; `pages` is the address of Dagster's pages, where more can be seen."""
    counts = [(word, sum(one.kind == kind for one in waiting.news)) for kind, word in WORDS.items()]
    first = waiting.news[0].finding.title
    said = ", ".join(f"{count} {word.lower()}" for word, count in counts if count)
    number = sha256(json.dumps([dumped(one) for one in waiting.news], sort_keys=True).encode()).hexdigest()[:DIGITS]
    shown = [_paragraph(one) for one in waiting.news[:MOST_SHOWN]]
    more = len(waiting.news) - MOST_SHOWN
    rest = [f"And {more} more, see {pages}."] if more > 0 else []
    lost = [f"{waiting.lost} earlier alerts could not be delivered here, see {pages}."] if waiting.lost else []
    title = f"{first}" if len(waiting.news) == 1 else f"{said}: {first} …"
    return Message(number=number, title=title, body="\n\n".join([*shown, *rest, *lost, f"Alert {number}."]))


def _paragraph(news: News) -> str:
    finding = news.finding
    since = f"{news.since:%Y-%m-%d %H:%M} UTC"
    how = {
        "begun": f"Since {since}.",
        "still": f"Found {news.count} times since {since}.",
        "over": f"It was found {news.count} times since {since}, and is well again.",
        "closed": f"It was found {news.count} times since {since}, but nobody looked for {NEITHER_FOR.days} days.",
        "decided": f"At {since}.",
    }[news.kind]
    is_over = news.kind in {"over", "closed"}
    lines = [f"{WORDS[news.kind]}: {finding.title}", how, *([] if is_over else [finding.detail, finding.remedy]), finding.link]
    return "\n".join(line for line in lines if line)


def outbox_of(stored: Mapping[str, Any]) -> dict[str, Waiting]:
    """An outbox from what was stored; raises TypeError, ValueError or KeyError where it is damaged."""
    news = dict(enumerate(map(news_of, stored.get("news", ()))))
    return {endpoint: _waiting(one, news) for endpoint, one in stored.get("endpoints", {}).items()}


def _waiting(stored: Mapping[str, Any], news: Mapping[int, News]) -> Waiting:
    since, next_at = (None if stored[name] is None else datetime.fromisoformat(stored[name]) for name in ("since", "next_at"))
    own = tuple(news[number] for number in stored["news"])
    return Waiting(news=own, tries=int(stored["tries"]), since=since, next_at=next_at, lost=int(stored["lost"]))


def dumped_outbox(outbox: Outbox) -> dict[str, Any]:
    """An outbox as JSON has it: all news once, and those of each endpoint by their numbers."""
    numbers = {news: number for number, news in enumerate(dict.fromkeys(news for one in outbox.values() for news in one.news))}
    endpoints = {
        endpoint: {
            "news": [numbers[news] for news in one.news],
            "tries": one.tries,
            "lost": one.lost,
            "since": None if one.since is None else one.since.isoformat(),
            "next_at": None if one.next_at is None else one.next_at.isoformat(),
        }
        for endpoint, one in outbox.items()
    }
    return {"news": [dumped(news) for news in numbers], "endpoints": endpoints}
