"""Faults and bad input on whole pipelines: services killed under load, runs killed and run twice, a lost slot, poison, strange times.

After each fault the audit finds nothing lost and nothing duplicated, and nobody did anything but start what was dead: what the
sensors do (look at the services, start failed tasks again, type what landed) is all that went on.
"""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest
from confluent_kafka import IsolationLevel, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from pipeline_assets.core import names
from pipeline_assets.core.brokers import client_config
from pipeline_assets.core.connections import catalog, warehouse
from pipeline_assets.core.errors import SourceChanged
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.ingestion.streaming.audit.audit import read_log, verify_table, verify_topic
from pipeline_assets.ingestion.streaming.audit.compare import read_table
from pipeline_assets.ingestion.streaming.capture.connect import Connect, open_connect
from pipeline_assets.ingestion.streaming.capture.connectors import apply, connectors_of
from pipeline_assets.ingestion.streaming.capture.replication import drop_slot, slot_of
from pipeline_assets.ingestion.streaming.capture.topics import end_offsets
from pipeline_assets.ingestion.streaming.health.arrivals import touched
from pipeline_assets.ingestion.streaming.health.days import Reach, stale_days
from pipeline_assets.ingestion.streaming.health.watch import Watch
from pipeline_assets.ingestion.streaming.landing.refetch import refetch_from
from pipeline_assets.ingestion.streaming.streams import change_log, followed_table, record_streams
from pipeline_assets.ingestion.streaming.typed.rows import type_landed
from pipeline_assets.local_stack.plan import CONNECT, KAFKA, POSTGRES, S3
from pipeline_assets.spec.contracts import Field
from pipeline_assets_tests.lake_rows import commits_held_back
from pipeline_assets_tests.landings import event, plain
from pipeline_assets_tests.readings import at, process
from pipeline_assets_tests.readings import kill as kill_process
from pipeline_assets_tests.stack_services import cluster_of, heal, kill, pid_of
from pipeline_assets_tests.stream_pipelines import MANY, Pipeline, loaded, pipeline_on
from pipeline_assets_tests.stream_records import until

TYPE = """
from pipeline_assets.ingestion.streaming.typed.rows import type_landed
from pipeline_assets_tests.landings import stream_of
type_landed(settings, stream_of({name!r}, {topic!r}), run_id="killed")
"""
LARGE, TOO_LARGE = 5_000_000, 17_000_000
NOISE_BYTES = 10_000_000
LAST_DAY = date(2013, 12, 31)
POISON: list[tuple[str, bytes | None]] = [
    ("not a JSON object", b'{"sensor": "a1", "level": '),
    ("not a JSON object", b"[1, 2]"),
    ("not a JSON object", b"\xff\xfe{}"),
    ("not a JSON object", b'{"sensor": "\xc3\x28"}'),
    ("not a JSON object", b"\x00" + event(0)),
    ("not a JSON object", b""),
    ("empty record", None),
    ("sensor wrong type", event(0, sensor="a\0")),
    ("level wrong type", event(0, level="3")),
    ("value wrong type", event(0, value=[])),
    ("level out of range", event(0, level=2**63)),
    ("level out of range", event(0, level=-(2**63) - 1)),
    ("read_at wrong type", event(0, read_at=0)),
    ("kind not allowed", event(0, kind="x" * LARGE)),
]
# A slot is not made as long as somebody holds a lock, and a snapshot reads one table after the other.
LOCKED_ONCE_THE_SLOT_IS_MADE = """
    do $$ begin
        while not exists (select from pg_replication_slots where slot_name = '{slot}' and confirmed_flush_lsn is not null) loop
            perform pg_sleep(0.005);
        end loop;
        lock table branches in access exclusive mode;
    end $$
"""
LOST = "select wal_status from pg_replication_slots where slot_name = %s"


@pytest.fixture(scope="module")
def shared(streams: Settings) -> Iterator[Pipeline]:
    """Events, a topic that nobody writes to and a followed table, with a thousand records of each of the others behind them."""
    with pipeline_on(streams, topics=("events", "silence")) as pipeline:
        pipeline.change(MANY)
        pipeline.connect()
        pipeline.send_good()
        pipeline.audit()
        yield pipeline


@pytest.fixture
def pipeline(shared: Pipeline) -> Pipeline:
    """The pipeline, watched from now on: failed tasks are started again a few times an hour, and each test is an hour of its own."""
    shared.watch = Watch(now=datetime.now(UTC))
    return shared


@pytest.mark.parametrize("service", [CONNECT, KAFKA, POSTGRES, S3])
def test_a_service_that_is_killed_under_load_costs_no_record(pipeline: Pipeline, service: str) -> None:
    """A kill -9 while events and changes flow and land: after its restart all that was confirmed and committed is typed, once."""
    with loaded(pipeline) as load:
        landed = pipeline.landed()
        until(pipeline.landed, lambda found: found > landed)
        killed = kill(pipeline.settings, service)
        offered, transactions, interrupted = load.offered, load.transactions, load.interrupted
        until(lambda: load.offered, lambda found: found > offered)
        until(lambda: load.transactions + load.interrupted, lambda found: found > transactions + interrupted)
        waiting = load.offered - load.confirmed
        heal(pipeline.settings)
        until(lambda: load.transactions, lambda found: found > transactions)

    assert pid_of(pipeline.settings, service) != killed
    assert waiting > 0 or service != KAFKA
    assert load.interrupted > 0 or service != POSTGRES
    assert pipeline.audit() >= MANY


def captured_rows(pipeline: Pipeline, table: str) -> int:
    """How far the topic of a table's changes reaches, open transactions of its connector included."""
    topic = names.changes_topic(pipeline.database, "public", table)
    return end_offsets(pipeline.settings, [topic]).get((topic, 0), 0)


def committed_rows(pipeline: Pipeline, table: str) -> int:
    """How far the topic of a table's changes reaches, up to the first open transaction: a killed worker takes none of it back."""
    end = {TopicPartition(names.changes_topic(pipeline.database, "public", table), 0): OffsetSpec.latest()}
    client = AdminClient(client_config(pipeline.settings))
    (found,) = client.list_offsets(end, isolation_level=IsolationLevel.READ_COMMITTED).values()
    return int(found.result().offset)


def test_a_worker_that_is_killed_in_a_snapshot_begins_it_again(streams: Settings) -> None:
    """One table was captured and the next was not when Connect was killed; rows change while it is away, and both tables come out right."""
    with pipeline_on(streams, registers=("accounts", "branches"), topics=()) as pipeline, open_connect(streams) as connect:
        pipeline.change(MANY + MANY // 2)
        pipeline.change(100, "branches")
        with pipeline.operations() as holder, ThreadPoolExecutor(1) as pool:
            # It looks out for the slot before there is a connector that could make one.
            holder.execute("set statement_timeout = '2min'")
            held = pool.submit(holder.execute, LOCKED_ONCE_THE_SLOT_IS_MADE.format(slot=names.replication(pipeline.database)))
            for connector in connectors_of(pipeline.project):
                connector.prepare(pipeline.settings)
                connect.put(connector.name, connector.config(pipeline.settings))
            held.result()
            until(lambda: committed_rows(pipeline, "accounts"), lambda found: found >= MANY)
            killed, captured = kill(streams, CONNECT), captured_rows(pipeline, "branches")
        pipeline.change(200)
        pipeline.change(50, "branches")
        heal(streams)
        until(lambda: captured_rows(pipeline, "branches"), lambda found: found >= 100)
        records = pipeline.settle()
        log = read_log(pipeline.settings, pipeline.project.sources[0])

    assert (captured, pid_of(streams, CONNECT) != killed) == (0, True)
    assert log["_op"].to_pylist().count("r") > 2 * MANY
    assert records >= 2 * MANY


def test_a_typing_run_that_is_killed_before_its_commit_is_done_again(pipeline: Pipeline) -> None:
    """The files are written and quarantine is kept, the commit waits, the process is killed: the next run types every record once."""
    name, topic = pipeline.events.contract.name, pipeline.events.topic
    landed, typed, files = pipeline.landed(), pipeline.type_events(), pipeline.typed_files()
    broken = b"{killed"
    pipeline.send_good()
    pipeline.send([broken])
    pipeline.poison["not a JSON object", broken] += 1
    until(pipeline.landed, lambda found: found > landed + MANY)
    with (
        commits_held_back(pipeline.settings, name) as waiting,
        process(pipeline.settings, TYPE.format(name=name, topic=topic)) as started,
    ):
        waiting.for_writers(1)
        kept, written = pipeline.quarantined(), pipeline.typed_files() - files
        kill_process(started)
    done = pipeline.type_events()

    assert (kept, written) == (pipeline.poison, 1)
    assert (done.rows, dict(done.broken), done.snapshot_before) == (MANY, {"not a JSON object": 1}, typed.snapshot_after)
    assert pipeline.audit() > MANY


def test_of_two_typing_runs_at_once_one_does_the_work(pipeline: Pipeline) -> None:
    """The second waits for the first and finds nothing left."""
    name = pipeline.events.contract.name
    landed = pipeline.landed()
    pipeline.type_events()
    pipeline.send_good()
    until(pipeline.landed, lambda found: found >= landed + MANY)
    with ThreadPoolExecutor(2) as pool:
        with warehouse(pipeline.settings) as holder, quarantine.locked(holder, name, names.STREAM):
            runs = [pool.submit(pipeline.type_events) for _ in range(2)]
            until(lambda: lock_waiters(pipeline.settings), lambda found: found == 2)
        done = [run.result(60) for run in runs]

    assert sorted(one.rows for one in done) == [0, MANY]
    assert pipeline.audit() >= MANY


def test_a_table_that_is_not_there_keeps_no_other_connector_from_its_work(streams: Settings) -> None:
    """The connector of its database is refused with the table's name; events land, each of them."""
    with pipeline_on(streams) as pipeline:
        with pipeline.operations() as connection:
            connection.execute("drop table accounts")
        hindered = {one.name: error for one, error in apply(pipeline.settings, connectors_of(pipeline.project)) if error is not None}
        pipeline.send_good()
        landed = until(pipeline.landed, lambda found: found >= MANY)

    assert hindered.keys() == {names.changes_connector(pipeline.database)}
    assert "accounts" in str(hindered.popitem()[1])
    assert landed == MANY


def test_events_count_once_their_transaction_is_committed(pipeline: Pipeline) -> None:
    """What its producer took back is never typed; what it holds open waits, is not taken for typed, and comes when it is committed."""
    producer, topic = Producer({**client_config(pipeline.settings), "transactional.id": "one"}), pipeline.events.topic
    pipeline.send_good()
    producer.init_transactions(60)
    taken_back, kept = pipeline.number(MANY), pipeline.number(MANY // 2)
    for numbers in (taken_back, kept):
        producer.begin_transaction()
        for number in numbers:
            producer.produce(topic, plain(number), partition=number % 2)
        producer.flush(60)
        if numbers is taken_back:
            producer.abort_transaction(60)

    def commit() -> None:
        pipeline.tick()
        if pipeline.sent[-1] != kept[-1]:
            producer.commit_transaction(60)
            pipeline.sent += kept

    verdict = verify_topic(pipeline.settings, record_streams(pipeline.project), topic, commit)
    pipeline.send_good()

    assert (verdict.problems, kept[-1] in pipeline.sent) == ([], True)
    assert pipeline.audit() >= MANY


def test_a_use_case_that_comes_later_may_follow_another_table_of_the_database(streams: Settings) -> None:
    """Its rows from before are captured as well; what changed meanwhile in the other's table is neither lost nor duplicated."""
    with pipeline_on(streams, registers=("accounts", "branches"), topics=()) as pipeline:
        (both,) = pipeline.project.use_cases
        first, second = (
            replace(both, name=name, sources=(source,)) for name, source in zip(("first", "second"), both.sources, strict=True)
        )
        pipeline.change(MANY)
        pipeline.change(100, "branches")
        pipeline.project = Project(use_cases=(first,))
        pipeline.connect()
        alone = pipeline.settle()
        pipeline.change(MANY)
        pipeline.project = Project(use_cases=(first, second))
        pipeline.connect()
        together = pipeline.settle()
        pipeline.connect()
        again = pipeline.settle()

    # A tenth of the rows is deleted before a snapshot: the first has what is left of a thousand, the second of two thousand.
    assert alone >= MANY * 9 // 10
    assert together >= MANY * 18 // 10
    # A third look finds the two changes that it made itself.
    assert again < 10


def test_a_change_that_the_lake_has_lost_is_reported(streams: Settings) -> None:
    """A row is taken out of the change log behind everybody's back: the audit names its key, and that alone."""
    with pipeline_on(streams, topics=()) as pipeline:
        pipeline.change(MANY + MANY // 2)
        pipeline.connect()
        records, source = pipeline.settle(), pipeline.project.sources[0]
        with catalog(pipeline.settings) as lake:
            lake.load_table(names.typed(change_log(source).contract.name)).delete("account_id = 1")
        reading = read_table(pipeline.settings, source.contract, followed_table(source))
        verdict = verify_table(pipeline.settings, source, reading, pipeline.tick)

    assert records >= MANY
    assert verdict.problems == ["1 keys are missing in the lake: (1,)"]


def lock_waiters(settings: Settings) -> int:
    """How many connections wait for an advisory lock."""
    with warehouse(settings) as connection:
        found = connection.execute("select count(*) from pg_locks where locktype = 'advisory' and not granted").fetchone()
    return found[0] if found else 0


def ask(connect: Connect, pipeline: Pipeline, action: str) -> None:
    """Has the connector of changes stopped, or taken up again."""
    connect.client.put(f"/connectors/{names.changes_connector(pipeline.database)}/{action}").raise_for_status()


def give_up_slot(pipeline: Pipeline) -> None:
    """Has Postgres give up a slot that nobody reads by, as it does when the log that it holds back grows too large."""
    slot = [names.replication(pipeline.database)]
    with cluster_of(pipeline.settings.home) as cluster:
        cluster.execute("alter system set idle_replication_slot_timeout = '1s'")
        cluster.execute("select pg_reload_conf()")
        try:
            until(lambda: (cluster.execute("checkpoint"), cluster.execute(LOST, slot).fetchone())[1], lambda found: found == ("lost",))
        finally:
            cluster.execute("alter system reset idle_replication_slot_timeout")
            cluster.execute("select pg_reload_conf()")


def troubles_at_tick(pipeline: Pipeline) -> list[str]:
    """What the sensors say of the slot now."""
    pipeline.tick()
    return [trouble for trouble in pipeline.troubles() if "slot" in trouble]


@pytest.mark.parametrize("how", ["dropped", "given up by Postgres"])
def test_a_lost_slot_is_reported_and_leaves_no_hole(pipeline: Pipeline, how: str) -> None:
    """What changed while there was no slot is in no log: that is reported, a new snapshot is taken, and nothing is missing."""
    slot, source = names.replication(pipeline.database), pipeline.project.sources[0]
    pipeline.tick()
    before = captured_rows(pipeline, "accounts")
    with open_connect(pipeline.settings) as connect, cluster_of(pipeline.settings.home) as cluster:
        ask(connect, pipeline, "stop")
        is_read = "select active from pg_replication_slots where slot_name = %s"
        until(lambda: cluster.execute(is_read, [slot]).fetchone(), lambda found: found == (False,))
        if how == "dropped":
            drop_slot(pipeline.settings, pipeline.database)
        else:
            give_up_slot(pipeline)
        pipeline.change(MANY)
        troubles = troubles_at_tick(pipeline)
        ask(connect, pipeline, "resume")
        until(lambda: (troubles_at_tick(pipeline), captured_rows(pipeline, "accounts"))[1], lambda found: found > before + MANY)
    records = pipeline.audit()
    log = read_log(pipeline.settings, source)
    new = log.filter(log["_offset"].to_numpy() >= before)["_op"].to_pylist()

    assert len(troubles) == 1
    assert "new snapshot" in troubles[0]
    assert new.count("r") > MANY > len(new) - new.count("r")
    assert records >= MANY
    assert troubles_at_tick(pipeline) == []


def test_poison_waits_in_quarantine_and_its_neighbours_pass(pipeline: Pipeline) -> None:
    """Whatever it is, 5 MB included, a broken record stops nobody: it stands in quarantine with its reason and its bytes."""
    for fault, payload in POISON:
        pipeline.send_good(MANY // 10)
        assert pipeline.send([payload], largest=2 * LARGE) == []
        pipeline.poison[fault, payload or b""] += 1

    assert pipeline.audit() >= len(POISON) * (MANY // 10 + 1) > MANY


def test_a_record_that_the_broker_does_not_take_is_refused_to_its_producer(pipeline: Pipeline) -> None:
    """17 MB are more than a topic holds: the producer gets an error, and records before and after it pass."""
    pipeline.send_good()
    refused = pipeline.send([event(0, kind="x" * TOO_LARGE)], largest=2 * TOO_LARGE)
    pipeline.send_good()

    assert [error.name() for error in refused] == ["MSG_SIZE_TOO_LARGE"]
    assert pipeline.audit() >= 2 * MANY


def test_a_large_value_of_a_row_is_captured(pipeline: Pipeline) -> None:
    """5 MB in one column of a row come as they are, between a thousand other changes."""
    pipeline.change(MANY)
    with pipeline.operations(autocommit=True) as connection:
        connection.execute("update accounts set note = repeat('0123456789', %s) where account_id = 1", [LARGE // 10])
    pipeline.change(10)

    assert pipeline.audit() > MANY


def test_events_from_the_future_and_from_long_ago_stop_nothing(pipeline: Pipeline) -> None:
    """Whether they are typed or quarantined is the contract's matter; neighbours pass, and no day outside the use case is asked for."""
    past, future, end = datetime(1971, 1, 1, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
    times = [(past, past), (past, at(0)), (future, at(0)), (future, future), (end, end), (at(0), end)]
    typed, held, numbers = pipeline.type_events(), pipeline.quarantined(), pipeline.number(len(times))
    strange = {event(number, read_at=read, sent_at=sent): number for number, (read, sent) in zip(numbers, times, strict=True)}
    assert pipeline.send(list(strange)) == []
    pipeline.send_good()
    records, broken = pipeline.settle(), pipeline.quarantined() - held
    found = touched(pipeline.settings, [pipeline.events], {pipeline.events.contract.name: typed.snapshot_after or 0})
    span = stale_days(found, Reach(before=1), pipeline.project.use_cases[0].first_day, LAST_DAY)
    refused = {payload for _, payload in broken}
    pipeline.sent += [number for payload, number in strange.items() if payload not in refused]
    pipeline.poison += broken

    assert records >= MANY + len(strange)
    assert refused <= strange.keys()
    assert span is not None
    assert (span[0], span[1] <= LAST_DAY) == (at(0).date() - timedelta(days=1), True)
    assert pipeline.typed() == Counter(pipeline.sent)


def test_a_topic_without_records_is_in_order(pipeline: Pipeline) -> None:
    """While its neighbour's events flow it has nothing to type, and nobody complains."""
    silence = pipeline.project.streams[1]
    pipeline.send_good()
    records = pipeline.audit()
    pipeline.tick()
    done = type_landed(pipeline.settings, silence, run_id="test", refetch=refetch_from(pipeline.settings))

    assert (done.rows, done.commits, done.offsets, done.table_rows) == (0, 0, {}, 0)
    assert records >= MANY
    assert pipeline.troubles() == []
    assert names.typed(silence.contract.name) in pipeline.watch.seen


def test_a_contract_that_names_a_missing_field_stops_its_own_stream_alone(pipeline: Pipeline) -> None:
    """The error names the field, nothing is written, the other stream of the topic goes on; once the contract is mended all is typed."""
    colour = Field(name="colour", type="string", required=True, description="No record has it.")
    contract = replace(pipeline.events.contract, name=f"{pipeline.events.contract.name}_wrong")
    wrong = replace(pipeline.events, contract=replace(contract, fields=(*contract.fields, colour)))
    pipeline.send_good()
    assert pipeline.audit() >= MANY
    with pytest.raises(SourceChanged, match="field 'colour'"):
        type_landed(pipeline.settings, wrong, run_id="test", refetch=refetch_from(pipeline.settings))
    kept = quarantine.listed(pipeline.settings, source=contract.name)
    pipeline.send_good()
    records = pipeline.audit()
    done = type_landed(pipeline.settings, replace(wrong, contract=contract), run_id="test", refetch=refetch_from(pipeline.settings))

    assert (kept, records >= MANY) == ([], True)
    assert (done.rows, sum(done.broken.values())) == (len(pipeline.sent), pipeline.poison.total())


def make_noise(cluster: psycopg.Connection) -> str:
    """Writes some ten million bytes of log that no connector reads; the LSN at its end."""
    begin = cluster.execute("select pg_current_wal_lsn()::text").fetchone() or ("",)
    cluster.execute("create table noise as select repeat(md5(n::text), 20) from generate_series(1, 50_000) as n")
    cluster.execute("drop table noise")
    end = cluster.execute("select pg_current_wal_lsn()::text, pg_wal_lsn_diff(pg_current_wal_lsn(), %s)", begin).fetchone() or ("", 0)
    # What a slot may let go of is confirmed from time to time, and at each of these.
    cluster.execute("checkpoint")
    assert end[1] > NOISE_BYTES
    return str(end[0])


def test_the_log_of_a_database_does_not_grow_for_an_idle_table(pipeline: Pipeline) -> None:
    """While only others are written to, and events flow, the slot lets go of the log that is read, and nothing keeps its files."""
    kept = "select restart_lsn >= %s::pg_lsn from pg_replication_slots where slot_name = %s"
    pipeline.send_good()
    with cluster_of(pipeline.settings.home) as cluster:
        asked = [make_noise(cluster), names.replication(pipeline.database)]
        until(lambda: cluster.execute(kept, asked).fetchone(), lambda found: found == (True,))
    slot = slot_of(pipeline.settings, pipeline.database)

    assert slot is not None
    assert slot.bytes_behind < NOISE_BYTES
    assert pipeline.audit() >= MANY


def test_a_slot_holds_back_the_log_of_a_transaction_that_does_not_end(pipeline: Pipeline) -> None:
    """All that was committed has been emitted; still the log from the begin of the open transaction on is kept, and it is said how much."""
    pipeline.change(MANY)
    with pipeline.operations() as staying, cluster_of(pipeline.settings.home) as cluster:
        staying.execute("update accounts set holder = holder where account_id = 1")
        lsn = make_noise(cluster)
        confirmed = "select confirmed_flush_lsn >= %s::pg_lsn from pg_replication_slots where slot_name = %s"
        asked = [lsn, names.replication(pipeline.database)]
        until(lambda: cluster.execute(confirmed, asked).fetchone(), lambda found: found == (True,))
        slot = slot_of(pipeline.settings, pipeline.database)
        staying.rollback()

    assert slot is not None
    assert slot.bytes_behind > NOISE_BYTES
    assert pipeline.audit() > MANY
