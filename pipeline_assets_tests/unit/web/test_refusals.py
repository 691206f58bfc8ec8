"""Refusals of the guard before the web pages in the audit log: bounded, and counted."""

import asyncio
import json
import logging
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import httpx
import pytest

from pipeline_assets.serving.realtime.access.audit import AUDIT, Asked, now
from pipeline_assets.serving.realtime.access.problems import Refusal, forbidden
from pipeline_assets.serving.realtime.access.traces import trace_of
from pipeline_assets.web.guard import WebGuard
from pipeline_assets.web.refusals import Refusals

FORBIDDEN = forbidden("Not from there.")
DEADLINE_SECONDS = 20


class Lines(logging.Handler):
    """The lines of the audit log, as they come."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []
        self.counted = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a line; sets `counted` at one that stands for several."""
        self.lines.append(json.loads(record.getMessage()))
        if "times" in self.lines[-1]:
            self.counted.set()

    def counts(self) -> list[tuple[str, int | None]]:
        """Address and count of each line, in their order."""
        return [(line["address"], line.get("times")) for line in self.lines]


@pytest.fixture
def log() -> Iterator[Lines]:
    """What is written while the test runs."""
    logger, handler = logging.getLogger(AUDIT), Lines()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


def asked(address: str = "192.0.2.1", changes: tuple[str, ...] = ()) -> Asked:
    """A request from an address."""
    return Asked(method="POST", route="/graphql", params={}, address=address, trace=trace_of({}), began_at=now(), changes=changes)


def test_a_flood_of_one_kind_is_two_lines_and_no_other_kind_is_lost_in_it(log: Lines) -> None:
    """The first at once, the rest counted once its time is over; another status, client or change has a line of its own."""

    async def flood() -> list[tuple[str, int | None]]:
        refusals = Refusals(seconds=0.2)
        for _ in range(500):
            refusals.write(asked(), None, FORBIDDEN)
        refusals.write(asked("192.0.2.2"), None, FORBIDDEN)
        refusals.write(asked(changes=("launchRun",)), None, FORBIDDEN)
        refusals.write(asked(), None, Refusal(status=HTTPStatus.BAD_REQUEST, detail="Unreadable."))
        at_once = log.counts()
        await asyncio.wait_for(log.counted.wait(), DEADLINE_SECONDS)
        refusals.end()
        return at_once

    at_once = asyncio.run(flood())

    assert at_once == [("192.0.2.1", None), ("192.0.2.2", None), ("192.0.2.1", None), ("192.0.2.1", None)]
    assert log.counts()[4:] == [("192.0.2.1", 499)]


def test_a_kind_that_goes_on_is_one_line_for_each_time(log: Lines) -> None:
    """What comes after the count is counted anew, and not written at once."""

    async def goes_on() -> None:
        refusals = Refusals(seconds=2.0)
        refusals.write(asked(), None, FORBIDDEN)
        refusals.write(asked(), None, FORBIDDEN)
        await asyncio.wait_for(log.counted.wait(), DEADLINE_SECONDS)
        refusals.write(asked(), None, FORBIDDEN)
        refusals.write(asked(), None, FORBIDDEN)
        refusals.end()

    asyncio.run(goes_on())

    assert [times for _, times in log.counts()] == [None, 1, 2]


def test_clients_without_end_are_lines_with_an_end(log: Lines) -> None:
    """Beyond the most kinds the rest share a line for each status."""

    async def flood() -> None:
        refusals = Refusals(most=3)
        for number in range(200):
            refusals.write(asked(f"192.0.2.{number}"), None, FORBIDDEN)
        refusals.end()

    asyncio.run(flood())

    assert log.counts() == [("192.0.2.0", None), ("192.0.2.1", None), ("192.0.2.2", None), ("192.0.2.3", None), ("192.0.2.199", 196)]


def test_the_guard_writes_what_it_counted_when_the_server_ends(log: Lines) -> None:
    """A foreign page that asks again and again is two lines: the first, and how many followed."""
    ending = asyncio.Event()

    async def app(_: Any, receive: Any, send: Any) -> None:
        assert (receive, send) == (None, None)
        await ending.wait()

    async def served() -> tuple[set[int], list[int | None]]:
        guard = WebGuard(app, hosts=["service.test"])
        life = asyncio.create_task(guard({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=guard), base_url="http://service.test") as client:
            found = {(await client.post("/graphql", json={}, headers={"origin": "http://foreign.test"})).status_code for _ in range(50)}
        before = [times for _, times in log.counts()]
        ending.set()
        await life
        return found, before

    assert asyncio.run(served()) == ({403}, [None])
    assert [times for _, times in log.counts()] == [None, 49]
