"""The sensor of alerts with a real Dagster instance and real endpoints on loopback: a webhook, an SMTP server, Slack's form."""

import json
import shutil
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event

import apprise
import dagster as dg
import pytest
from apprise.plugins.discord import NotifyDiscord
from apprise.plugins.slack import NotifySlack

from pipeline_assets.alerts import send
from pipeline_assets.alerts.outbox import Message
from pipeline_assets.alerts.sensors import PAUSE, alerts
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform
from pipeline_assets_tests.alert_endpoints import Hook, Mailbox, mailbox, webhook

STOCK, PRICES = "stock-team@shop.example", "price-team@shop.example"
# Apprise has a substitute of its own from Python 3.13 on.
LOADS_APPRISE = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
NOWHERE = "postgresql://nobody:x@127.0.0.1:9/nothing"


class Bad(dg.Config):
    """What goes wrong in a run."""

    raises: str = ""
    passes: bool = True


@dg.asset(owners=[STOCK], key=["shop", "stock"])
def stock(config: Bad) -> None:
    """Raises what it is asked to."""
    if config.raises:
        raise RuntimeError(config.raises)


@dg.asset_check(asset=["shop", "stock"])
def is_fresh(config: Bad) -> dg.AssetCheckResult:
    """Passes or not."""
    facts = {"problem": "the newest row is 3 days old", "what to do": "Ask the shop."}
    return dg.AssetCheckResult(passed=config.passes, metadata={} if config.passes else facts)


@dg.asset(owners=[PRICES], key=["shop", "prices"])
def prices() -> None:
    """Always works."""


DEFS = dg.Definitions(
    assets=[stock, prices],
    asset_checks=[is_fresh],
    jobs=[dg.define_asset_job("restock", selection=dg.AssetSelection.assets(["shop", "stock"])), dg.define_asset_job("all_of_it")],
)


class Desk:
    """A sensor with its instance and its cursor, as the daemon has them."""

    def __init__(self, home: Path, patch: pytest.MonkeyPatch) -> None:
        self.instance = dg.DagsterInstance.ephemeral()
        self.cursor: str | None = None
        self._home, self._patch = home, patch
        for name, value in {"DAGSTER_URL": "http://127.0.0.1:3000", "WAREHOUSE_DSN": NOWHERE}.items():
            patch.setenv(f"PIPELINE_{name}", value)

    def alert(self, urls: str) -> None:
        """Names the endpoints, and looks for the first time."""
        self._patch.setenv("PIPELINE_ALERT_URLS", urls)
        self.tick()

    def tick(self) -> dg.SensorResult | dg.SkipReason:
        """One look."""
        context = dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, repository_def=DEFS.get_repository_def(),
            resources={"platform": Platform(home=str(self._home))},
        )  # fmt: skip
        found = alerts(Project(use_cases=()))(context)
        assert isinstance(found, dg.SensorResult | dg.SkipReason)
        self.cursor = found.cursor if isinstance(found, dg.SensorResult) else self.cursor
        return found

    def later(self, passed: timedelta) -> None:
        """Has the cursor be so much older."""
        old = json.loads(self.cursor or "{}", object_hook=lambda found: {name: _moved(value, passed) for name, value in found.items()})
        self.cursor = json.dumps(old)

    def run(self, *, raises: str = "", passes: bool = True, job: str = "restock", tags: dict[str, str] | None = None) -> str:
        """A run to its end; its id."""
        ops = {"shop__stock": {"config": {"raises": raises}}, "shop__stock_is_fresh": {"config": {"passes": passes}}}
        done = DEFS.resolve_job_def(job).execute_in_process(
            instance=self.instance, run_config={"ops": ops}, raise_on_error=False, tags=tags or {}
        )
        return done.run_id


def _moved(value: object, passed: timedelta) -> object:
    try:
        return (datetime.fromisoformat(value) - passed).isoformat() if isinstance(value, str) else value
    except ValueError:
        return value


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A sensor that has not looked yet."""
    found = Desk(tmp_path, monkeypatch)
    yield found
    found.instance.dispose()


@pytest.fixture
def hook() -> Iterator[Hook]:
    """A webhook."""
    with webhook() as found:
        yield found


@pytest.fixture
def box() -> Iterator[Mailbox]:
    """An SMTP server."""
    with mailbox() as found:
        yield found


def test_nobody_is_alerted_where_no_url_is_named(desk: Desk) -> None:
    """The sensor reads nothing then, and says why."""
    found = desk.tick()

    assert isinstance(found, dg.SkipReason)
    assert "PIPELINE_ALERT_URLS" in str(found.skip_message)


def test_a_job_that_fails_is_one_message_until_it_works_again(desk: Desk, hook: Hook) -> None:
    """With the error, what to do, and a link to the run; the second has the count and comes when it was well for a while."""
    desk.run(raises="before the first look")
    desk.alert(hook.url)
    first = desk.run(raises="shelf 7 is gone")
    desk.tick()
    for _ in range(3):
        desk.run(raises="shelf 7 is gone")
        desk.tick()
    desk.run()
    desk.tick()
    desk.later(timedelta(minutes=11))
    desk.tick()
    desk.tick()

    begun, over = (each["message"] for each in hook.got)
    assert [each["title"] for each in hook.got] == ["Run of restock failed"] * 2
    assert begun.startswith("NEW: Run of restock failed\nSince ")
    assert "shelf 7 is gone" in begun
    assert "start the run again" in begun
    assert f"http://127.0.0.1:3000/runs/{first}" in begun
    assert "OVER: Run of restock failed\nIt was found 4 times" in over


def test_days_that_failed_are_over_once_a_run_has_made_them_all(desk: Desk, hook: Hook) -> None:
    """Regression: a run over February ended the alert on January. Each has one of its own."""
    january, february, year = (
        {"dagster/asset_partition_range_start": f"2024-{first}", "dagster/asset_partition_range_end": f"2024-{last}"}
        for first, last in (("01-01", "01-31"), ("02-01", "02-29"), ("01-01", "12-31"))
    )
    desk.alert(hook.url)
    desk.run(raises="no", tags=january)
    desk.tick()
    desk.run(raises="no", tags=february)
    desk.run(tags=february)
    desk.tick()
    desk.later(timedelta(minutes=11))
    desk.tick()
    assert [each["title"].removeprefix("Run of restock over 2024-") for each in hook.got] == [
        "01-01 to 2024-01-31 failed",
        "02-01 to 2024-02-29 failed",
        "02-01 to 2024-02-29 failed",
    ]

    desk.run(tags=year)
    desk.tick()
    desk.later(timedelta(minutes=11))
    desk.tick()
    assert "OVER: Run of restock over 2024-01-01 to 2024-01-31 failed" in hook.got[-1]["message"]


def test_a_run_of_assets_that_somebody_chose_is_said_once(desk: Desk, hook: Hook) -> None:
    """Regression: only the same choice that worked ended it; people repair by the job, and it was said each day for ever."""
    desk.alert(hook.url)
    chosen = DEFS.resolve_implicit_global_asset_job_def()
    ops = {"shop__stock": {"config": {"raises": "no"}}}
    key = dg.AssetKey(["shop", "stock"])
    chosen.execute_in_process(instance=desk.instance, run_config={"ops": ops}, raise_on_error=False, asset_selection=[key])
    desk.tick()
    for _ in range(3):
        desk.later(timedelta(hours=13))
        desk.tick()

    assert [each["title"] for each in hook.got] == ["Run of shop/stock failed"]


def test_a_failed_check_goes_to_the_owner_of_its_asset_with_what_to_do(desk: Desk, hook: Hook, box: Mailbox) -> None:
    """By e-mail to one team, while all else goes to the webhook; a check that a sensor judged counts as one of a run."""
    desk.alert(json.dumps({STOCK: [box.url("stock@shop.example")], "*": [hook.url]}))
    desk.run(passes=False)
    desk.tick()
    evaluation = dg.AssetCheckEvaluation(asset_key=dg.AssetKey(["shop", "prices"]), check_name="in_range", passed=False, metadata={})
    desk.instance.report_runless_asset_event(evaluation)
    desk.tick()

    (mail,) = box.got
    body = mail.get_body(("plain",))
    assert mail["subject"] == "Check is_fresh of shop/stock failed"
    assert mail["to"] == "stock@shop.example"
    assert body is not None
    text = body.get_content().replace("\r\n", "\n")
    assert "the newest row is 3 days old\nAsk the shop.\nhttp://127.0.0.1:3000/assets/shop/stock?view=checks" in text
    assert [each["title"] for each in hook.got] == ["Check in_range of shop/prices failed"]


def test_all_that_is_new_at_a_look_is_one_message(desk: Desk, hook: Hook) -> None:
    """A run and a check that fail together come together."""
    desk.alert(hook.url)
    desk.run(passes=False)
    desk.run(raises="no", job="all_of_it")
    desk.tick()

    (only,) = hook.got
    assert only["title"] == "2 new: Check is_fresh of shop/stock failed …"
    assert "NEW: Run of all_of_it failed" in only["message"]


def test_a_run_that_is_tried_again_is_no_alert_yet(desk: Desk, hook: Hook) -> None:
    """A sensor asked for it, and it is the first try; the last one is an alert."""
    desk.alert(hook.url)
    desk.run(raises="no", tags={"dagster/sensor_name": "days_changed"})
    desk.tick()
    assert hook.got == []

    desk.run(raises="no", tags={"dagster/sensor_name": "days_changed", "pipeline/try": "5"})
    desk.tick()
    assert [each["title"] for each in hook.got] == ["Run of restock failed"]


def test_a_run_that_nobody_tries_again_after_all_is_an_alert(desk: Desk, hook: Hook) -> None:
    """Its sensor was switched off: an hour after it was due. A run of the job that works, or fails again, takes its place before."""
    asked = {"dagster/sensor_name": "days_changed"}
    desk.alert(hook.url)
    desk.run(raises="mended", tags=asked)
    desk.tick()
    desk.run()
    desk.tick()
    desk.later(timedelta(hours=2))
    desk.tick()
    assert hook.got == []

    desk.run(raises="left alone", tags=asked)
    desk.tick()
    desk.tick()
    assert hook.got == []

    desk.later(timedelta(hours=2))
    desk.tick()
    desk.tick()
    assert [each["title"] for each in hook.got] == ["Run of restock failed"]
    assert "left alone" in hook.got[0]["message"]


def test_a_job_that_fails_more_often_than_its_tries_are_apart_is_an_alert(desk: Desk, hook: Hook) -> None:
    """Regression: each new first try put the alert off. It says since when the job fails, and what the newest failure was."""
    asked = {"dagster/sensor_name": "records_landed"}
    desk.alert(hook.url)
    began = datetime.now(UTC).replace(second=0, microsecond=0)
    for number in range(5):
        desk.run(raises=f"failure {number}", tags=asked)
        desk.tick()
        desk.later(timedelta(minutes=50))
    assert hook.got == []

    desk.tick()
    assert [each["title"] for each in hook.got] == ["Run of restock failed"]
    since = datetime.strptime(hook.got[0]["message"].splitlines()[1], "Since %Y-%m-%d %H:%M UTC.").replace(tzinfo=UTC)
    assert began <= since + timedelta(minutes=250) <= datetime.now(UTC)
    assert "failure 4" in hook.got[0]["message"]


def test_a_dead_endpoint_stops_itself_alone_and_has_all_of_it_later(desk: Desk, hook: Hook, capfd: pytest.CaptureFixture[str]) -> None:
    """What it did not take waits in the cursor, without its URL; tries are apart; nothing comes twice, and its secrets are in no log."""
    with webhook() as dead:
        dead.status = 503
        desk.alert(f"{hook.url} {dead.url}")
        desk.run(raises="first")
        desk.tick()
        desk.run(passes=False)
        desk.tick()
        assert len(hook.got) == 2
        assert dead.got == []
        kept = desk.cursor or ""
        dead.status = 200
        desk.tick()
        assert dead.got == []
        desk.later(timedelta(minutes=3))
        desk.tick()
        desk.tick()

        assert len(hook.got) == 2
        assert [each["title"] for each in dead.got] == ["2 new: Run of restock failed …"]
        logged = "".join(capfd.readouterr())
        assert "did not take its alerts" in logged
        assert "503" in logged
        assert not [secret for secret in ("T0PS3CRET", "correct-horse-battery") if secret in kept + logged]


def test_an_endpoint_that_never_answers_holds_up_nothing(hook: Hook) -> None:
    """After the deadline the program that sends is ended; the other endpoint has its message."""
    message = Message(number="1", title="t", body="b")
    with webhook() as hung:
        hung.held = Event()
        orders = [send.Order(endpoint=name, url=url, message=message) for name, url in (("hung", hung.url + "?rto=60"), ("well", hook.url))]
        before = time.monotonic()
        answers = send.sent(orders, seconds=12)

    assert answers == {"hung": send.UNANSWERED, "well": None}
    assert time.monotonic() - before < 60
    assert len(hook.got) == 1


def test_a_program_that_cannot_start_is_said(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: it looked as if the endpoint had not answered."""
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    answers = send.sent([send.Order(endpoint="well", url=hook.url, message=Message(number="1", title="t", body="b"))])

    assert answers == {"well": "the program that sends ended with code 1"}


@LOADS_APPRISE
def test_slack_gets_its_form_without_mentions(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apprise's Slack plugin sends to a local server in the place of Slack what a channel shows; no foreign text calls everybody."""
    monkeypatch.setattr(NotifySlack, "webhook_url", f"http://127.0.0.1:{hook.port}/services")
    problem = send.deliver(
        "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#data", Message(number="1", title="t", body="NEW: ‹!channel›")
    )

    assert problem is None
    assert "NEW: ‹!channel›" in json.dumps(hook.got, ensure_ascii=False)


@LOADS_APPRISE
@pytest.mark.parametrize(("count", "asked", "parts"), [(15, "", 1), (50, "", 3), (300, "", send.MOST_PARTS), (50, "?overflow=truncate", 1)])
def test_an_endpoint_of_short_texts_gets_a_long_message_in_parts(
    hook: Hook, monkeypatch: pytest.MonkeyPatch, count: int, asked: str, parts: int
) -> None:
    """Regression: Discord refuses more than 2,000 characters, so that a message of many alerts never came.

    What would be too many parts is cut in the middle, and its last line, which has the number, comes. A URL may ask for one part.
    """
    monkeypatch.setattr(NotifyDiscord, "notify_url", f"http://127.0.0.1:{hook.port}/api/webhooks")
    hook.longest = NotifyDiscord.body_maxlen
    lines = [f"NEW: cause {number}, {'x' * 80}" for number in range(count)]
    message = Message(number="1", title="t", body="\n".join(lines) + "\n\nAlert 3f2a.")
    problem = send.deliver(f"discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js{asked}", message)

    text = json.dumps(hook.got)
    assert problem is None
    assert len(hook.got) == parts
    assert lines[0] in text
    assert ("Alert 3f2a." in text) == (asked == "")
    assert all(line in text for line in lines) == (count <= 50 and asked == "")


@LOADS_APPRISE
def test_a_url_of_no_known_kind_is_said_without_it() -> None:
    """The message names neither the URL nor its secrets."""
    assert send.deliver("carrier-pigeon://T0PS3CRET@loft", Message(number="1", title="t", body="b")) == send.UNKNOWN
    assert apprise.Apprise.instantiate("json://127.0.0.1") is not None


def test_events_that_come_late_with_a_lower_number_are_not_lost(desk: Desk, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that was open at one look is read at the next, and what was read before it is not said again."""
    desk.alert(hook.url)
    run = desk.run(passes=False)
    log = desk.instance.event_log_storage
    whole = log.get_logs_for_all_runs_by_log_id

    def without_checks(after: int, kind: dg.DagsterEventType, limit: int) -> dict[int, dg.EventLogEntry]:
        return {} if kind == dg.DagsterEventType.ASSET_CHECK_EVALUATION else dict(whole(after, kind, limit))

    monkeypatch.setattr(log, "get_logs_for_all_runs_by_log_id", without_checks)
    desk.run(raises="no", job="all_of_it")
    desk.tick()
    monkeypatch.setattr(log, "get_logs_for_all_runs_by_log_id", whole)
    desk.tick()
    desk.tick()

    assert [each["title"] for each in hook.got] == ["Run of all_of_it failed", "Check is_fresh of shop/stock failed"]
    assert desk.instance.get_run_by_id(run) is not None


def test_after_a_pause_it_begins_anew(desk: Desk, hook: Hook) -> None:
    """Regression: alerts that were off for weeks said all at once what had come and gone. What an endpoint has yet to get still comes."""
    with webhook() as dead:
        dead.status = 503
        desk.alert(f"{hook.url} {dead.url}")
        desk.run(raises="before")
        desk.tick()
        desk.run(raises="meanwhile", job="all_of_it")
        desk.later(PAUSE + timedelta(minutes=1))
        dead.status = 200
        desk.tick()
        desk.run(raises="after", job="all_of_it")
        desk.tick()

        assert [each["title"] for each in hook.got] == ["Run of restock failed", "Run of all_of_it failed"]
        assert [each["title"] for each in dead.got] == ["Run of restock failed", "Run of all_of_it failed"]
        assert "after" in hook.got[1]["message"]


def test_at_rest_a_look_asks_for_the_last_event_alone(desk: Desk, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read where nothing was recorded since."""
    desk.alert(hook.url)
    desk.run(passes=False)
    for _ in range(2):
        desk.tick()
    monkeypatch.setattr(desk.instance.event_log_storage, "get_logs_for_all_runs_by_log_id", None)
    found = desk.tick()

    assert isinstance(found, dg.SensorResult)
    assert found.skip_reason is not None
    assert datetime.now(UTC) > datetime.fromisoformat(next(iter(json.loads(desk.cursor or "{}")["open"].values()))["since"])


def test_a_damaged_cursor_starts_anew(desk: Desk, hook: Hook) -> None:
    """What came before is not said; what comes after is."""
    desk.alert(hook.url)
    desk.cursor = '{"event": 1, "open": {"a": {"finding": 7}}}'
    desk.run(raises="no")
    desk.tick()
    assert hook.got == []

    desk.run(raises="no")
    desk.tick()
    assert len(hook.got) == 1
