"""A look at everything that a stream passes: the database's slot, the connectors, the landed and typed records. Nothing is consumed."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from pipeline_assets.core import names
from pipeline_assets.core.connections import catalog
from pipeline_assets.core.errors import NotFollowed
from pipeline_assets.core.foreign import LONGEST_SENTENCE, masked, shown
from pipeline_assets.core.iceberg import open_table, while_unchanged
from pipeline_assets.core.names import AssetName
from pipeline_assets.core.problems import Obstacle
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.streaming.capture.connect import FAILED, Connect, Overview, Status
from pipeline_assets.ingestion.streaming.capture.connectors import Connector, committed, connectors_of, examined, marks_of
from pipeline_assets.ingestion.streaming.capture.preflight import Verdict
from pipeline_assets.ingestion.streaming.capture.replication import drop_slot, slot_of
from pipeline_assets.ingestion.streaming.capture.topics import end_offsets
from pipeline_assets.ingestion.streaming.health.flow import LOST, Flow, Memory, Restarts, remember, slot_trouble, trouble
from pipeline_assets.ingestion.streaming.streams import ChangeLog, followed_table, record_streams
from pipeline_assets.ingestion.streaming.typed.table import position_of
from pipeline_assets.spec.sources import RecordStream

TODO_CONNECTOR = (
    "See `pipeline logs connect`. What failed is restarted automatically, at most five times an hour; after that fix the cause and "
    "materialize the connector."
)
TODO_FLOW = "Look at the check of the connector that lands the topic, and at the runs of the job that types what landed."


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One asset at a look: numbers to show, and what is wrong with it (None: nothing) and what to do about that."""

    numbers: Mapping[str, int | str]
    trouble: str | None = None
    todo: str = ""


@dataclass(kw_only=True)
class Watch:
    """What is remembered from look to look, and what was seen at this one, by asset; of followed databases the preflight, by connector.

    `running`: the connectors that Kafka Connect had.
    """

    now: datetime
    memories: dict[str, Memory] = field(default_factory=dict)
    restarts: dict[str, Restarts] = field(default_factory=dict)
    seen: dict[AssetName, Seen] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    running: Overview = field(default_factory=Overview)

    def flow(self, asset: AssetName, flow: Flow) -> str | None:
        """What is wrong with a flow, and remembers it."""
        name = "/".join(asset)
        self.memories[name] = remember(flow, self.memories.get(name), self.now)
        return trouble(flow, self.memories[name], self.now)


def look(settings: Settings, connect: Connect, project: Project, watch: Watch) -> None:
    """Looks at all connectors and streams of the project; failed connectors are restarted, as often as may be."""
    streams, ends = record_streams(project), _ends(settings, project)
    watch.running = connect.overview()
    for connector in connectors_of(project):
        asset, verdict = names.connector(connector.name), examined(settings, connector)
        if connector.name in watch.running.connectors():
            watch.seen[asset] = _connector(settings, connect, connector, ends, watch)
        if verdict is not None:
            watch.verdicts[connector.name] = verdict
        if verdict is not None and verdict.of_database:
            watch.seen[asset] = _refused(verdict.of_database, {})
    contracts = [stream.contract.name for stream in streams]
    read = partial(_typed, settings, contracts)
    typed = while_unchanged(settings, map(names.typed, contracts), f"records typed of {contracts}", read)
    for stream in streams:
        asset, flow = names.typed(stream.contract.name), Flow(done=typed[stream.contract.name], end=ends[stream.topic])
        numbers = {"lag": flow.lag, "next_offsets": flow.done, "end_offsets": flow.end}
        obstacles = _obstacles(stream, watch)
        trouble = watch.flow(asset, flow)
        watch.seen[asset] = _refused(obstacles, numbers) if obstacles else Seen(numbers=numbers, trouble=trouble, todo=TODO_FLOW)


def _typed(settings: Settings, contracts: Sequence[str]) -> Mapping[str, int]:
    """How many records of its topic are typed, by contract."""
    with catalog(settings) as lake:
        tables = {name: open_table(lake, names.typed(name)) for name in contracts}
    return {name: 0 if table is None else sum(position_of(table).seen.next_offsets.values()) for name, table in tables.items()}


def _obstacles(stream: RecordStream, watch: Watch) -> Sequence[Obstacle]:
    """What keeps the table of a stream from being followed."""
    if not isinstance(stream, ChangeLog):
        return ()
    table = followed_table(stream.source)
    return watch.verdicts[names.changes_connector(table.database)].of_tables.get(table, ())


def _refused(obstacles: Sequence[Obstacle], numbers: Mapping[str, int | str]) -> Seen:
    """An asset whose database, or table, is not followed."""
    return Seen(numbers=numbers, trouble=str(NotFollowed(obstacles)), todo=" ".join(one.remedy for one in obstacles))


def _ends(settings: Settings, project: Project) -> Mapping[str, int]:
    """How many records each topic has, heartbeats included."""
    marks = {str(one.topic): marks_of(one) for one in connectors_of(project) if one.topic is not None}
    heartbeats = {names.heartbeat_topic(one.database): 0 for one in connectors_of(project) if one.database is not None}
    ends: defaultdict[str, int] = defaultdict(int)
    for (topic, _), offset in end_offsets(settings, sorted({**marks, **heartbeats})).items():
        ends[topic] += max(offset - marks.get(topic, 0), 0)
    return ends


def _connector(settings: Settings, connect: Connect, connector: Connector, ends: Mapping[str, int], watch: Watch) -> Seen:
    status, asset = watch.running.status(connector.name), names.connector(connector.name)
    flow, numbers, slot_problem = _progress(settings, connect, connector, ends, watch)
    _restart(connect, connector.name, status, watch)
    stalled = watch.flow(asset, flow)
    traces = [status.trace, *(trace for state, trace in status.tasks.values() if state == FAILED)]
    failed = next((f"{connector.name} failed: {shown(masked(trace.splitlines()[0]), LONGEST_SENTENCE)}" for trace in traces if trace), None)
    state: dict[str, int | str] = {"state": status.state, "tasks": len(status.tasks), "tasks_failed": len(status.failed_tasks)}
    restarts = {"restarts_in_an_hour": len(watch.restarts[connector.name].at)}
    return Seen(numbers={**state, **restarts, **numbers}, trouble=failed or slot_problem or stalled, todo=TODO_CONNECTOR)


def _progress(
    settings: Settings, connect: Connect, connector: Connector, ends: Mapping[str, int], watch: Watch
) -> tuple[Flow, dict[str, int | str], str | None]:
    """How far a connector has come, numbers to show, and what is wrong with its slot.

    A connector that lands a topic is as far as it has committed; one that reads changes shows that it lives by a heartbeat that goes on.
    """
    if connector.database is None:
        end, before = ends[str(connector.topic)], watch.memories.get("/".join(names.connector(connector.name)))
        # Kafka Connect makes a client of the broker for each such question: who has come to an end that stands has all.
        done = end if before is not None and before.done == end else committed(connect, connector)
        flow = Flow(done=done, end=end)
        return flow, {"lag": flow.lag}, None
    beats, slot = ends[names.heartbeat_topic(connector.database)], slot_of(settings, connector.database)
    if slot is not None and slot.status == LOST:
        drop_slot(settings, connector.database)
    numbers: dict[str, int | str] = {} if slot is None else {"slot_bytes_behind": slot.bytes_behind, "slot_status": slot.status}
    problem = slot_trouble(slot)
    # Before its first record a connector has no slot yet.
    is_one = problem is not None and bool(connect.offsets(connector.name))
    return Flow(done=beats, end=beats + 1), {"heartbeats": beats, **numbers}, problem if is_one else None


def _restart(connect: Connect, name: str, status: Status, watch: Watch) -> None:
    known = watch.restarts.get(name, Restarts()).recent(watch.now)
    if (status.failed_tasks or status.state == FAILED) and known.may(watch.now):
        connect.restart_failed(name)
        known = Restarts(at=(*known.at, watch.now))
    watch.restarts[name] = known
