"""The sensors of streaming ingestion on a real lake: what lands is typed once, and the days that got events are materialized in one run."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterInstance
from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from pipeline_assets.core import names
from pipeline_assets.core.connections import catalog
from pipeline_assets.core.iceberg import open_table
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.streaming import sensors
from pipeline_assets.ingestion.streaming.health import arrivals
from pipeline_assets.ingestion.streaming.staged.state import LOG_SNAPSHOT
from pipeline_assets.ingestion.streaming.streams import change_log
from pipeline_assets.ingestion.streaming.typed.rows import type_landed
from pipeline_assets.spec.sources import PostgresTable, Source
from pipeline_assets.spec.use_case import UseCase
from pipeline_assets.use_cases.nyc_flights import use_case as flights
from pipeline_assets_tests.landings import Landed, event, land, records, stream_of
from pipeline_assets_tests.stack_env import write_stack_env

STREAM = stream_of("sensed")
CASE: UseCase = replace(flights, streams=(STREAM,))
BUILD_FEATURES = names.build_features(flights.name)
TABLE = Source(contract=stream_of("kept").contract, origin=PostgresTable(database="airline_ops", table="kept"), load="changes")
FOLLOWING: UseCase = replace(flights, streams=(), sources=(TABLE,))
Answer = dg.SensorResult | dg.SkipReason


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    """A Dagster instance that knows of no run."""
    with DagsterInstance.ephemeral() as made:
        yield made


class Ticks:
    """A sensor that is asked again and again, each time from the cursor that it left."""

    def __init__(self, sensor: dg.SensorDefinition, instance: DagsterInstance, home: Path) -> None:
        self._sensor, self._instance, self._platform = sensor, instance, Platform(home=str(home))
        self.cursor: str | None = None

    def next(self) -> Answer:
        """What the sensor answers now."""
        context = dg.build_sensor_context(instance=self._instance, cursor=self.cursor, resources={"platform": self._platform})
        answer = self._sensor(context)
        assert isinstance(answer, dg.SensorResult | dg.SkipReason)
        if isinstance(answer, dg.SensorResult):
            self.cursor = answer.cursor
        return answer


def _sensor(name: str, settings: Settings, instance: DagsterInstance, home: Path, *cases: UseCase) -> Ticks:
    write_stack_env(settings, home)
    found = sensors.defs(Project(use_cases=cases)).sensors or ()
    named = {sensor.name: sensor for sensor in found if isinstance(sensor, dg.SensorDefinition)}
    return Ticks(named[name], instance, home)


def _sensors(settings: Settings, instance: DagsterInstance, home: Path, case: UseCase = CASE) -> tuple[Ticks, Ticks]:
    landed, typed = (_sensor(name, settings, instance, home, case) for name in (names.RECORDS_LANDED, names.days_changed(flights.name)))
    return landed, typed


def _change(settings: Settings, offset: int) -> int:
    """A row of the followed table changes, is landed and typed; the snapshot of the change log."""
    change = {"op": "c", "source": {"lsn": offset, "ts_ms": 1367409900000}, "before": None, "after": json.loads(event(offset))}
    log = change_log(TABLE)
    _land(settings, [Landed(offset=offset, payload=json.dumps(change).encode(), topic=log.topic)], log.topic)
    return type_landed(settings, log, run_id="test").snapshot_after or 0


def _staged(instance: DagsterInstance, snapshot: object, job: str, *, is_well: bool) -> None:
    """A run that staged the followed table from a snapshot of its change log, and then came to its end or not."""

    @dg.asset(key=list(names.staged(TABLE.contract.name)))
    def state() -> dg.MaterializeResult[None]:
        return dg.MaterializeResult(metadata={LOG_SNAPSHOT: str(snapshot)})

    @dg.asset(deps=[state])
    def register() -> None:
        if not is_well:
            raise dg.Failure

    defs = dg.Definitions(assets=[state, register], jobs=[dg.define_asset_job(job)], executor=dg.in_process_executor)
    defs.resolve_job_def(job).execute_in_process(instance=instance, raise_on_error=False)


def _land(settings: Settings, landed: list[Landed], topic: str = STREAM.topic) -> None:
    with catalog(settings) as lake:
        land(lake, landed, topic)


def _requests(answer: Answer) -> list[dg.RunRequest]:
    return list(answer.run_requests or ()) if isinstance(answer, dg.SensorResult) else []


def _tables(answer: Answer) -> list[str]:
    return [table.path[-1] for request in _requests(answer) for table in request.asset_selection or ()]


def test_many_commits_that_landed_ask_for_one_run(isolated: Settings, instance: DagsterInstance, tmp_path: Path) -> None:
    """Nothing landed asks for nothing; three commits ask once; the same again asks for nothing."""
    landed, _ = _sensors(isolated, instance, tmp_path)
    before = landed.next()
    for start in range(0, 9, 3):
        _land(isolated, records(start, start + 3))
    first, again = landed.next(), landed.next()

    assert _requests(before) == []
    assert len(_requests(first)) == 1
    assert isinstance(again, dg.SkipReason)


def test_tables_that_have_not_changed_are_not_opened_again(
    isolated: Settings, instance: DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tick after which nobody committed opens no table; one commit later the sensors see what came."""
    landed, typed = _sensors(isolated, instance, tmp_path)
    _land(isolated, records(0, 3))
    type_landed(isolated, STREAM, run_id="first")
    answers, opened = [landed.next(), typed.next(), typed.next()], list[object]()

    def opening(lake: Catalog, name: tuple[str, str]) -> Table | None:
        opened.append(name)
        return open_table(lake, name)

    monkeypatch.setattr(arrivals, "open_table", opening)
    again = [landed.next(), typed.next()]
    at_rest = list(opened)
    _land(isolated, records(3, 6))
    more = landed.next()

    assert [len(_requests(answer)) for answer in (*answers, *again, more)] == [0, 1, 0, 0, 0, 1]
    assert at_rest == []
    assert names.landed(STREAM.topic) in opened


@pytest.mark.parametrize("damaged", ['{"snapshots": {"sensed"', "[]", '{"snapshots": {"sensed": null}, "open_day": 7, "due_days": "all"}'])
def test_a_damaged_cursor_starts_again_from_what_tables_say(
    isolated: Settings, instance: DagsterInstance, tmp_path: Path, damaged: str
) -> None:
    """Regression: each tick failed. Now all that is there is asked for, as at the first tick, and the cursor is whole again."""
    landed, typed = _sensors(isolated, instance, tmp_path)
    _land(isolated, records(0, 3))
    type_landed(isolated, STREAM, run_id="first")
    first = typed.next()
    whole, typed.cursor, landed.cursor = typed.cursor, damaged, damaged
    again = typed.next()

    assert isinstance(landed.next(), dg.SkipReason)
    assert [request.tags for request in _requests(again)] == [request.tags for request in _requests(first)]
    assert len(_requests(first)) == 1
    assert typed.cursor == whole


def test_only_what_landed_more_is_typed(isolated: Settings, instance: DagsterInstance, tmp_path: Path) -> None:
    """A run is asked for the tables of the topics that have more; one that an earlier run left untyped is asked for again."""
    other = stream_of("heard", topic="sounds")
    landed, _ = _sensors(isolated, instance, tmp_path, replace(flights, streams=(STREAM, other)))
    _land(isolated, records(0, 3))
    first = landed.next()
    with catalog(isolated) as lake:
        land(lake, [replace(one, topic="sounds") for one in records(0, 3)], topic="sounds")
    both = landed.next()
    type_landed(isolated, STREAM, run_id="first")
    type_landed(isolated, other, run_id="first")
    _land(isolated, records(3, 6))
    again = landed.next()

    assert [_tables(answer) for answer in (first, both, again)] == [["sensed"], ["sensed", "heard"], ["sensed"]]


def test_what_lands_while_events_are_typed_waits(isolated: Settings, instance: DagsterInstance, tmp_path: Path) -> None:
    """As long as a run is under way no other is asked for; the tick after it is."""
    landed, _ = _sensors(isolated, instance, tmp_path)
    _land(isolated, records(0, 3))
    run = dg.DagsterRun(job_name=names.TYPE_RECORDS, status=dg.DagsterRunStatus.STARTED)
    instance.add_run(run)
    during = landed.next()
    instance.delete_run(run.run_id)

    assert isinstance(during, dg.SkipReason)
    assert len(_requests(landed.next())) == 1


def test_the_days_that_got_events_are_asked_for_in_one_range(isolated: Settings, instance: DagsterInstance, tmp_path: Path) -> None:
    """Two days at once are one run over both and the day before; a late event asks from the day before it on; nothing new, nothing."""
    _, typed = _sensors(isolated, instance, tmp_path)
    day = {number: event(number, read_at=datetime(2013, 5, number, 12, tzinfo=UTC)) for number in (1, 2, 3)}
    before = typed.next()
    _land(isolated, [Landed(offset=0, payload=day[1]), Landed(offset=1, payload=day[3])])
    type_landed(isolated, STREAM, run_id="first")
    first, again = typed.next(), typed.next()
    _land(isolated, [Landed(offset=2, payload=day[2])])
    type_landed(isolated, STREAM, run_id="second")
    late = typed.next()

    assert _requests(before) == _requests(again) == []
    assert [_range(request) for request in _requests(first)] == [("2013-04-30", "2013-05-03")]
    assert [_range(request) for request in _requests(late)] == [("2013-05-01", "2013-05-03")]
    assert len({request.run_key for answer in (first, late) for request in _requests(answer)}) == 2


def test_a_day_that_has_not_ended_waits_and_one_of_the_future_does_not(
    isolated: Settings, instance: DagsterInstance, tmp_path: Path
) -> None:
    """A use case without an end has no partition for today yet: its day is asked for once it has ended, and that of 2099 never."""
    today = datetime.now(UTC).replace(hour=0, minute=1)
    case = replace(CASE, first_day=today.date() - timedelta(days=3), last_day=None)
    _, typed = _sensors(isolated, instance, tmp_path, case)
    times = (today - timedelta(days=2), today, datetime(2099, 1, 1, tzinfo=UTC))
    _land(isolated, [Landed(offset=n, payload=event(n, read_at=time), received_at=None) for n, time in enumerate(times)])
    type_landed(isolated, STREAM, run_id="first")
    first, again = typed.next(), typed.next()

    yesterday = (today - timedelta(days=1)).date().isoformat()
    assert [_range(request) for request in _requests(first)] == [((times[0].date() - timedelta(days=1)).isoformat(), yesterday)]
    assert _requests(again) == []
    assert json.loads(typed.cursor or "")["open_day"] == today.date().isoformat()


def test_a_table_that_changed_is_followed_once_and_again_after_its_next_change(
    isolated: Settings, instance: DagsterInstance, tmp_path: Path
) -> None:
    """Before its log is there nothing is asked for; then once for each state of the log."""
    changed = _sensor(names.TABLES_CHANGED, isolated, instance, tmp_path, FOLLOWING)
    answers = [changed.next()]
    for offset in range(2):
        _change(isolated, offset)
        answers += [changed.next(), changed.next()]

    assert [len(_requests(answer)) for answer in answers] == [0, 1, 0, 1, 0]


def test_the_days_of_each_use_case_are_asked_for_by_themselves(isolated: Settings, instance: DagsterInstance, tmp_path: Path) -> None:
    """Events of a shared stream are days of both; while those of one are materialized the other's are asked for all the same."""
    other = replace(CASE, name="other", models=())
    mine, theirs = (_sensor(names.days_changed(case.name), isolated, instance, tmp_path, CASE, other) for case in (CASE, other))
    _land(isolated, [Landed(offset=0, payload=event(0, read_at=datetime(2013, 5, 2, 12, tzinfo=UTC)))])
    type_landed(isolated, STREAM, run_id="first")
    instance.add_run(dg.DagsterRun(job_name=BUILD_FEATURES, status=dg.DagsterRunStatus.STARTED))

    assert isinstance(mine.next(), dg.SkipReason)
    # A use case whose decisions are made on the day itself needs no day before it.
    assert [_range(request) for request in _requests(theirs.next())] == [("2013-05-02", "2013-05-02")]


@pytest.mark.parametrize(("sources", "asked"), [((), 0), ((TABLE,), 1)], ids=["not shared", "shared"])
def test_a_run_over_days_of_one_use_case_takes_no_shared_table_along(
    isolated: Settings, instance: DagsterInstance, tmp_path: Path, *, sources: tuple[Source, ...], asked: int
) -> None:
    """It builds the models of that use case alone; a table that another follows too is still to be taken to the other's."""
    other = replace(FOLLOWING, name="other", sources=sources)
    changed = _sensor(names.TABLES_CHANGED, isolated, instance, tmp_path, FOLLOWING, other)
    _staged(instance, _change(isolated, 0), BUILD_FEATURES, is_well=True)

    assert len(_requests(changed.next())) == asked


def test_a_table_waits_for_runs_over_the_days_of_any_use_case(isolated: Settings, instance: DagsterInstance, tmp_path: Path) -> None:
    """Whichever of them may take the table along."""
    other = replace(FOLLOWING, name="other")
    changed = _sensor(names.TABLES_CHANGED, isolated, instance, tmp_path, FOLLOWING, other)
    _change(isolated, 0)
    instance.add_run(dg.DagsterRun(job_name=names.build_features("other"), status=dg.DagsterRunStatus.STARTED))

    assert isinstance(changed.next(), dg.SkipReason)


@pytest.mark.parametrize(("job", "is_well", "asked"), [(BUILD_FEATURES, True, 0), (BUILD_FEATURES, False, 1), ("staged_alone", True, 1)])
def test_a_run_over_days_takes_followed_tables_along(
    isolated: Settings, instance: DagsterInstance, tmp_path: Path, *, job: str, is_well: bool, asked: int
) -> None:
    """A change waits for a run that is under way; if that took it to dbt and went well, nothing more is asked for."""
    changed = _sensor(names.TABLES_CHANGED, isolated, instance, tmp_path, FOLLOWING)
    snapshot = _change(isolated, 0)
    run = dg.DagsterRun(job_name=BUILD_FEATURES, status=dg.DagsterRunStatus.STARTED)
    instance.add_run(run)
    during = changed.next()
    _staged(instance, snapshot, job, is_well=is_well)
    instance.delete_run(run.run_id)

    assert isinstance(during, dg.SkipReason)
    assert len(_requests(changed.next())) == asked


def test_a_change_waits_for_no_long_run(
    isolated: Settings, instance: DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some minutes a run of its own is asked for, whatever else is under way."""
    changed = _sensor(names.TABLES_CHANGED, isolated, instance, tmp_path, FOLLOWING)
    _change(isolated, 0)
    instance.add_run(dg.DagsterRun(job_name=BUILD_FEATURES, status=dg.DagsterRunStatus.STARTED))
    monkeypatch.setattr(sensors, "ALONG", timedelta(0))

    assert len(_requests(changed.next())) == 1


def _range(request: dg.RunRequest) -> tuple[str, ...]:
    return tuple(value for name, value in sorted(request.tags.items(), reverse=True) if name.startswith("dagster/asset_partition_range"))
