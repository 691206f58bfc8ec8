"""The program that sends messages, each to one endpoint by Apprise, side by side; what became of each is one line of JSON.

A program of its own, since it is ended by force where an endpoint holds it: no library bounds the whole of an e-mail or a request. It gets
the messages, and with them the URLs, on standard input; nothing secret is on its command line, in its environment, or in what it prints.
"""

import json
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from typing import Any

from pipeline_assets.alerts.outbox import Message
from pipeline_assets.core.foreign import masked, shown

SECONDS = 20.0
# Into so many parts a message is divided for an endpoint of short texts, most of which take one each 5.5 s.
MOST_PARTS = 4
CUT = " …\n\n"
UNANSWERED = f"it did not answer within {SECONDS:.0f} s"
REFUSED = "it was refused"
UNKNOWN = "its URL is of no kind that Apprise knows"


@dataclass(frozen=True, kw_only=True)
class Order:
    """A message for an endpoint, whose URL is a secret."""

    endpoint: str
    url: str
    message: Message


def sent(orders: Sequence[Order], seconds: float = SECONDS) -> dict[str, str | None]:
    """Sends all messages; by endpoint None where it took its message, else why not. Returns after `seconds` at the latest.

    An endpoint that answers too late may have the message none the less; it comes again, under the same number if nothing new came since.
    """
    given = json.dumps([asdict(order) for order in orders]).encode()
    command = [sys.executable, "-m", "pipeline_assets.alerts.send"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:  # noqa: S603 - own
        try:
            output, _ = process.communicate(given, timeout=seconds)
            otherwise = f"the program that sends ended with code {process.returncode}"
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            otherwise = UNANSWERED
    lines = [json.loads(line) for line in output.splitlines() if line.endswith(b"}")]
    answers: dict[str, str | None] = {line["endpoint"]: line["problem"] for line in lines}
    return {order.endpoint: answers.get(order.endpoint, otherwise) for order in orders}


def deliver(url: str, message: Message) -> str | None:
    """Sends one message, in parts where it is too long for one; None where it was taken, else why not, without anything of the URL."""
    import apprise

    endpoint = apprise.Apprise.instantiate(url, suppress_exceptions=True)
    if endpoint is None:
        return UNKNOWN
    if endpoint.overflow_mode == apprise.OverflowMode.UPSTREAM:
        endpoint.overflow_mode = apprise.OverflowMode.SPLIT
    said, log = Said(), logging.getLogger("apprise")
    log.addHandler(said)
    try:
        body = _bounded(message.body, endpoint.body_maxlen * (MOST_PARTS - 1))
        was_taken = endpoint.notify(body=body, title=message.title, body_format=apprise.NotifyFormat.TEXT)
    finally:
        log.removeHandler(said)
    return None if was_taken else shown(masked(" ".join(said.lines), re.split(r"[/:@?&=]+", url)) or REFUSED)


def _bounded(body: str, longest: int) -> str:
    """A text of at most so many characters, with its last paragraph, which has the number."""
    last = body.rpartition("\n\n")[2]
    return body if len(body) <= longest else f"{body[: max(longest - len(CUT) - len(last), 0)]}{CUT}{last}"


class Said(logging.Handler):
    """What the thread that makes it has a library log as a warning or worse."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines, self._thread = list[str](), threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps the message."""
        if record.thread == self._thread:
            self.lines.append(record.getMessage())


def main() -> None:
    """Sends what comes on standard input; who started it ends it where one hangs."""
    orders = [_order(each) for each in json.load(sys.stdin)]
    with ThreadPoolExecutor(max_workers=max(len(orders), 1)) as pool:
        waiting = {pool.submit(deliver, order.url, order.message): order.endpoint for order in orders}
        for done in as_completed(waiting):
            problem = f"{type(done.exception()).__name__} was raised" if done.exception() is not None else done.result()
            print(json.dumps({"endpoint": waiting[done], "problem": problem}), flush=True)  # noqa: T201 - its answer


def _order(stored: Mapping[str, Any]) -> Order:
    return Order(endpoint=stored["endpoint"], url=stored["url"], message=Message(**stored["message"]))


if __name__ == "__main__":
    main()
