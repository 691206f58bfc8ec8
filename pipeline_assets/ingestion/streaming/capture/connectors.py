"""What the project needs of Kafka, as its declarations say: topics, connectors, landing tables, publications.

All are made from all use cases together: a database has one connector and one publication for the tables that any of them follows, and a
topic is landed once, whichever streams read it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from pipeline_assets.core import names
from pipeline_assets.core.connections import catalog
from pipeline_assets.core.errors import NotFollowed, PipelineError, SourceUnavailable
from pipeline_assets.core.foreign import LONGEST_SENTENCE, masked, shown
from pipeline_assets.core.names import AssetName
from pipeline_assets.core.prediction_streams import use_case as platform
from pipeline_assets.core.problems import Obstacle
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.versions import in_table
from pipeline_assets.ingestion.sources.origins import source_name
from pipeline_assets.ingestion.streaming.capture import configs as connectors
from pipeline_assets.ingestion.streaming.capture.connect import Connect, Overview, open_connect
from pipeline_assets.ingestion.streaming.capture.preflight import Contracts, Verdict
from pipeline_assets.ingestion.streaming.capture.replication import count_rows, drop_slot, examine, publish, slot_of
from pipeline_assets.ingestion.streaming.capture.table_rules import identifier
from pipeline_assets.ingestion.streaming.capture.topics import Topic, end_offsets, ensure_topics
from pipeline_assets.ingestion.streaming.decoding.formats import headers_of
from pipeline_assets.ingestion.streaming.streams import followed, followed_table, record_streams
from pipeline_assets.spec.sources import PostgresTable, RecordStream, Source

# Events of one key keep their order, which takes one partition each; more partitions are more keys at once.
EVENT_PARTITIONS = 2
PATIENCE_SECONDS = 180.0
# The option that lists the tables of a connector.
TABLES = "table.include.list"
# What a connector commits its place in a topic by.
COMMITTED_TOPIC, COMMITTED_OFFSET = "kafka_topic", "kafka_offset"


@dataclass(frozen=True, kw_only=True)
class Connector:
    """A connector: the assets that it reads and the topics that it must find, who owns these, and how it is configured and prepared.

    `topic` is the topic that it lands (`is_of_changes` if another connector fills it) with some `headers` of its records, `database` that
    whose changes it reads: one of both. `contracts` are those of the `tables` that it follows.
    """

    name: str
    reads: Sequence[AssetName]
    topics: Sequence[Topic]
    owners: Sequence[str]
    config: Callable[[Settings], Mapping[str, str]]
    topic: str | None = None
    headers: Sequence[str] = ()
    is_of_changes: bool = False
    database: str | None = None
    tables: Sequence[PostgresTable] = ()
    contracts: Contracts = field(default_factory=dict)

    def prepare(self, settings: Settings) -> None:
        """Makes what the connector must find: topics, and a publication or a landing table."""
        ensure_topics(settings, self.topics)
        if self.database is not None:
            publish(settings, self.database, self.tables, self.contracts)
        if self.topic is not None:
            from pipeline_assets.ingestion.streaming.landing.tables import ensure_landing_table

            with catalog(settings) as lake:
                ensure_landing_table(lake, self.topic, self.headers)


# A connector as it runs (None: it does not), and what hinders it.
Outcome = tuple[Connector | None, PipelineError | None]


def connectors_of(project: Project) -> list[Connector]:
    """One connector for each database that is followed, with all its followed tables, and one for each topic that is landed."""
    sources = followed(project)
    databases = sorted({followed_table(source).database for source in sources})
    changes = [_changes(database, [source for source in sources if followed_table(source).database == database]) for database in databases]
    of_changes = {topic.name for connector in changes for topic in connector.topics}
    streams = record_streams(project)
    topics = {topic: [stream for stream in streams if stream.topic == topic] for topic in topics_of(project)}
    return [*changes, *(_landing(topic, own, is_ours=topic not in of_changes) for topic, own in topics.items())]


def topics_of(project: Project) -> list[str]:
    """The topics that are landed, each once, in the order of their declaration."""
    return list(dict.fromkeys(stream.topic for stream in record_streams(project)))


def examined(settings: Settings, connector: Connector) -> Verdict | None:
    """The preflight of the database that a connector follows; None of a connector that lands a topic."""
    return None if connector.database is None else examine(settings, connector.database, connector.tables, connector.contracts)


def following(connector: Connector, verdict: Verdict | None) -> Connector | None:
    """A connector with those of its tables alone that can be followed; None where it has none left. The topics of all stay."""
    if verdict is None:
        return connector
    database, own = str(connector.database), {table: connector.contracts[table] for table in verdict.accepted}
    configured = partial(connectors.changes, database=database, tables=list(own), contracts=own)
    return replace(connector, tables=list(own), contracts=own, config=configured) if own else None


def apply(settings: Settings, connectors: Sequence[Connector]) -> Iterator[tuple[Connector, PipelineError | None]]:
    """Has connectors run as they are declared, all at once; nothing happens to one that does.

    Gives each once it has taken what was there for it (the rows of the tables that it follows, or the records of the topic that it lands),
    or else what hinders it, which keeps no other from its work. A connector some of whose tables cannot be followed runs without them, is
    given as it runs, and NotFollowed beside it. Expects the connector that fills a topic before the one that lands it.
    """
    with open_connect(settings) as connect:
        put = {one.name: _tried(partial(_put, settings, connect, one)) for one in connectors}
        for one in connectors:
            running, error = put[one.name]
            late = None if running is None else _tried(partial(_await_arrival, settings, connect, running))[1]
            yield running or one, late or error


def runs_despite(connector: Connector, error: PipelineError) -> bool:
    """Whether a connector, as `apply` gave it, runs: what hinders it are tables that it runs without."""
    own = {None, *map(identifier, connector.tables)}
    return isinstance(error, NotFollowed) and not own & {one.table for one in error.obstacles}


def obstacles_of(settings: Settings, project: Project) -> dict[PostgresTable, Sequence[Obstacle]]:
    """The followed tables that cannot be followed rightly, by the catalogs of their databases, with what keeps them from it."""
    verdicts = [examined(settings, connector) for connector in connectors_of(project)]
    return {table: found for verdict in verdicts if verdict is not None for table, found in verdict.of_tables.items()}


def _tried(step: Callable[[], Outcome]) -> Outcome:
    """What a step gives, or what hinders it."""
    try:
        return step()
    except PipelineError as error:
        return None, error


def _put(settings: Settings, connect: Connect, connector: Connector) -> Outcome:
    """The connector as it runs now, with what keeps some of its tables from being followed."""
    verdict = examined(settings, connector)
    if verdict is None:
        connector.prepare(settings)
        connect.put(connector.name, connector.config(settings))
        return connector, None
    own, error = following(connector, verdict), NotFollowed(verdict.obstacles) if verdict.obstacles else None
    if own is None:
        _stop(settings, connect, connector, verdict)
        return None, error
    if not _captures_all(settings, connect, own, verdict):
        _give_up_slot(settings, connect, own)
    own.prepare(settings)
    connect.put(own.name, own.config(settings))
    return own, error


def _stop(settings: Settings, connect: Connect, connector: Connector, verdict: Verdict) -> None:
    """Follows none of the tables any more; what keeps the database as a whole from being followed may pass, and changes nothing."""
    # Those who read the topics must find them.
    ensure_topics(settings, connector.topics)
    if not verdict.of_database:
        _give_up_slot(settings, connect, connector)
        publish(settings, str(connector.database), ())


def _captures_all(settings: Settings, connect: Connect, connector: Connector, verdict: Verdict) -> bool:
    """Whether no table of a connector is new: each is published whole, and in its configuration where it has one."""
    wanted, known = _included(connector.config(settings)), connect.connectors()
    included = _included(connect.config(connector.name)) if connector.name in known else wanted
    return wanted <= included and verdict.captured >= set(connector.tables)


def _included(config: Mapping[str, str]) -> set[str]:
    """The tables in a configuration. One that was put by an earlier version does not say that case matters, and captures the same."""
    return {each.removeprefix(connectors.CASE_MATTERS) for each in config.get(TABLES, "").split(",")}


def _give_up_slot(settings: Settings, connect: Connect, connector: Connector) -> None:
    """Deletes a connector and its slot, so that it starts with a snapshot of all its tables; nothing happens at its first start.

    A connector that has offsets takes no snapshot of a table that is added to it: the rows from before would never be emitted. Changes of
    the other tables in between are in the snapshot. The publication is changed after this, so that a run that is killed does it again.
    """
    import stamina

    database = str(connector.database)
    connect.delete(connector.name)
    for attempt in stamina.retry_context(on=SourceUnavailable, attempts=None, timeout=PATIENCE_SECONDS, wait_initial=0.2, wait_max=2.0):
        with attempt:
            drop_slot(settings, database)
            if slot_of(settings, database) is not None:
                raise SourceUnavailable(database, f"still has a reader of the slot {names.replication(database)}")


def _await_arrival(settings: Settings, connect: Connect, connector: Connector) -> Outcome:
    """Returns once a connector has taken what there is for it now; raises SourceUnavailable where it has not got so far in some minutes."""
    import stamina

    wanted = _ends(settings, connector)
    for attempt in stamina.retry_context(on=SourceUnavailable, attempts=None, timeout=PATIENCE_SECONDS, wait_initial=0.5, wait_max=2.0):
        with attempt:
            _check_arrived(settings, connect, connector, wanted)
    return connector, None


def _ends(settings: Settings, connector: Connector) -> dict[str, int]:
    """How many records a connector has to emit or to land: of each topic that it fills or lands."""
    if connector.database is not None:
        return {names.changes_topic(table.database, table.schema, table.table): count_rows(settings, table) for table in connector.tables}
    ends = end_offsets(settings, [str(connector.topic)])
    return {str(connector.topic): sum(max(end - marks_of(connector), 0) for end in ends.values())}


def _check_arrived(settings: Settings, connect: Connect, connector: Connector, wanted: Mapping[str, int]) -> None:
    if connector.database is not None:
        ends = end_offsets(settings, list(wanted))
        lacking = sum(max(rows - ends.get((topic, 0), 0), 0) for topic, rows in wanted.items())
    else:
        lacking = max(wanted[str(connector.topic)] - committed(connect, connector), 0)
    status = connect.status(connector.name)
    if lacking or not status.is_running:
        trace = next((trace for _, trace in status.tasks.values() if trace), status.trace)
        why = shown(masked(trace.splitlines()[0]), LONGEST_SENTENCE) if trace else f"it is {status.state} with {len(status.tasks)} tasks"
        raise SourceUnavailable("Kafka Connect", f"connector {connector.name} has {lacking} records to go: {why}")


def committed(connect: Connect, connector: Connector) -> int:
    """How many records of its topic a connector has landed."""
    offsets = connect.offsets(connector.name)
    return sum(int(offset[COMMITTED_OFFSET]) for place, offset in offsets if place.get(COMMITTED_TOPIC) == connector.topic)


def marks_of(connector: Connector) -> int:
    """How many of the last offsets of a partition of its topic are no record: a transaction of changes ends with a mark."""
    return 1 if connector.is_of_changes else 0


def is_applied(settings: Settings, connect: Connect | Overview, connector: Connector, verdict: Verdict | None) -> bool:
    """Whether a connector is there as it is declared, with those of its tables that can be followed; where it cannot be, nothing is to do.

    verdict: the preflight of the database that it follows (`examined`).
    """
    own, is_there = following(connector, verdict), connector.name in connect.connectors()
    if verdict is not None and verdict.of_database:
        return True
    if verdict is not None and (verdict.surplus or not verdict.captured >= set(verdict.accepted)):
        return False
    if own is None or not is_there:
        return own is None and not is_there
    return connect.config(own.name) == {**own.config(settings), "name": own.name}


def _changes(database: str, sources: Sequence[Source]) -> Connector:
    contracts = {followed_table(source): in_table(source) for source in sources}
    tables = list(contracts)
    return Connector(
        name=names.changes_connector(database),
        reads=[source_name(table) for table in tables],
        topics=connectors.changes_topics(database, tables),
        owners=sorted({source.contract.owner for source in sources}),
        config=partial(connectors.changes, database=database, tables=tables, contracts=contracts),
        database=database,
        tables=tables,
        contracts=contracts,
    )


def _landing(topic: str, streams: Sequence[RecordStream], *, is_ours: bool) -> Connector:
    """`is_ours`: no other connector makes the topic. `streams` are those of the topic: of one format, and routed by one field."""
    headers = headers_of(streams[0])
    configs = connectors.A_MONTH if set(streams) <= set(platform.streams) else connectors.FOREVER
    own = [Topic(name=topic, partitions=EVENT_PARTITIONS, configs=configs)] if is_ours else []
    return Connector(
        name=names.landing_connector(topic),
        reads=[names.topic(topic)],
        topics=[*own, *connectors.landing_topics(topic)],
        owners=sorted({stream.contract.owner for stream in streams}),
        config=lambda settings: connectors.landing(settings, topic, headers),
        topic=topic,
        headers=headers,
        is_of_changes=not is_ours,
    )
