"""Asks an HTTP server the same questions over and over, and says how long answers took and how many were refused.

    python -m benchmarks.http_load URL BODIES --rate 500 --seconds 10 --connections 32 [--header "Authorization: Bearer …"]

BODIES is a file of JSON lines, each a body to post; they are posted in turn. With a rate requests are due at even times, whatever became of
the ones before, and latency counts from the time at which a request was due (no coordinated omission). Without one each connection asks as
fast as it is answered. Prints one JSON object.
"""

import argparse
import asyncio
import json
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from urllib.parse import urlsplit

import numpy as np

TICK_SECONDS, PATIENCE_SECONDS, HEADER_END, OK = 0.0005, 30.0, b"\r\n\r\n", 200
HOST, PORT = "127.0.0.1", 80


@dataclass
class Load:
    """Requests to be made, and what came of them: of each the seconds from when it was due, by status (0: the connection broke)."""

    requests: Sequence[bytes]
    is_open: bool
    idle: "deque[Connection]" = field(default_factory=deque)
    waiting: "deque[float]" = field(default_factory=deque)
    taken: dict[int, list[float]] = field(default_factory=dict)
    sent: int = 0
    ends_at: float = 0.0

    def next(self) -> bytes:
        """The next request."""
        self.sent += 1
        return self.requests[self.sent % len(self.requests)]

    def done(self, connection: "Connection", status: int, seconds: float) -> None:
        """A connection is free again."""
        self.taken.setdefault(status, []).append(seconds)
        if not self.is_open and perf_counter() < self.ends_at:
            connection.ask(perf_counter())
        elif self.waiting:
            connection.ask(self.waiting.popleft())
        else:
            self.idle.append(connection)


class Connection(asyncio.Protocol):
    """One connection, which has one request at a time."""

    def __init__(self, load: Load) -> None:
        self.load, self.buffer, self.needed, self.status, self.since = load, b"", -1, 0, -1.0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        if isinstance(transport, asyncio.Transport):
            self.transport = transport
        self.load.idle.append(self)

    def ask(self, due: float) -> None:
        """Sends a request that was due at a time."""
        if self.transport is None or self.transport.is_closing():
            self.load.taken.setdefault(0, []).append(perf_counter() - due)
            return
        self.since = due
        self.transport.write(self.load.next())

    def data_received(self, data: bytes) -> None:
        """A part of an answer has come."""
        self.buffer += data
        if self.needed < 0:
            end = self.buffer.find(HEADER_END)
            if end < 0:
                return
            head = self.buffer[:end].lower()
            self.status = int(head[9:12])
            place = head.index(b"content-length:") + 15
            self.needed = end + len(HEADER_END) + int(head[place:].split(b"\r\n", 1)[0])
        if len(self.buffer) >= self.needed:
            self.buffer, self.needed = b"", -1
            since, self.since = self.since, -1.0
            self.load.done(self, self.status, perf_counter() - since)

    def connection_lost(self, exc: Exception | None) -> None:
        """It broke, or was closed."""
        del exc
        if self.since >= 0:
            self.load.taken.setdefault(0, []).append(perf_counter() - self.since)
        if self in self.load.idle:
            self.load.idle.remove(self)


async def run(url: str, bodies: Sequence[bytes], rate: float, seconds: float, connections: int, headers: Sequence[str]) -> Load:
    """Makes the requests."""
    place = urlsplit(url)
    head = f"POST {place.path} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n" + "".join(
        f"{one}\r\n" for one in headers
    )
    load = Load([f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies], is_open=rate > 0)
    loop = asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(lambda: Connection(load), place.hostname or HOST, place.port or PORT)
    began = perf_counter()
    load.ends_at = began + seconds
    if not load.is_open:
        for one in [load.idle.popleft() for _ in range(connections)]:
            one.ask(began)
    due = 0
    while perf_counter() < load.ends_at:
        while load.is_open and due < (perf_counter() - began) * rate:
            load.waiting.append(began + due / rate)
            due += 1
        while load.waiting and load.idle:
            load.idle.popleft().ask(load.waiting.popleft())
        await asyncio.sleep(TICK_SECONDS if load.is_open else 0.01)
    deadline = perf_counter() + PATIENCE_SECONDS
    while len(load.idle) < connections and perf_counter() < deadline and (load.waiting or load.idle or perf_counter() < deadline):
        if sum(map(len, load.taken.values())) >= load.sent:
            break
        await asyncio.sleep(0.01)
    return load


def summary(load: Load, seconds: float) -> dict[str, object]:
    """What came of the requests: a second, by status, and percentiles in milliseconds of answers and of refusals."""
    found = {status: np.array(taken) * 1000 for status, taken in load.taken.items()}
    refused = [taken for status, taken in found.items() if status not in {OK, 0}]

    def spread(taken: np.ndarray) -> dict[str, float]:
        p50, p99, most = np.percentile(taken, (50, 99, 100)) if len(taken) else (0.0, 0.0, 0.0)
        return {"p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2), "most_ms": round(float(most), 2)}

    ok = found.get(OK, np.array([]))
    return {
        "answers_per_second": round(len(ok) / seconds, 1),
        "by_status": dict(Counter({str(status): len(taken) for status, taken in found.items()})),
        "answered": spread(ok),
        "refused": spread(np.concatenate(refused)) if refused else {},
        "not_sent": len(load.waiting),
    }


def main() -> None:
    """Reads the arguments, makes the requests, prints what came of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("bodies", type=Path)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--header", action="append", default=[])
    asked = parser.parse_args()
    bodies = asked.bodies.read_bytes().splitlines()
    load = asyncio.run(run(asked.url, bodies, asked.rate, asked.seconds, asked.connections, asked.header))
    print(json.dumps(summary(load, asked.seconds)))


if __name__ == "__main__":
    main()
