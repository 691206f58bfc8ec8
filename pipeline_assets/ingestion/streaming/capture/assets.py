"""The connectors of Kafka Connect as assets, and the topics and landing tables that they write to."""

from collections.abc import Iterator, Sequence

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.errors import PipelineError, TransientError
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform, dagster_errors, key
from pipeline_assets.ingestion.streaming.capture.connectors import Connector, apply, connectors_of, runs_despite, topics_of
from pipeline_assets.ingestion.streaming.streams import record_streams
from pipeline_assets.spec.sources import RecordStream


def connectors(project: Project) -> dg.AssetsDefinition:
    """All connectors, in one op: a connector takes seconds to start, in which others can."""
    declared = connectors_of(project)

    @dg.multi_asset(name=names.CONNECTORS, specs=[_connector(one) for one in declared], can_subset=True)
    def applied(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[dg.MaterializeResult[None]]:
        chosen = [one for one in declared if key(names.connector(one.name)) in context.selected_asset_keys]
        hindered = list[PipelineError]()
        with dagster_errors():
            for one, error in apply(platform.settings, chosen):
                if error is not None:
                    context.log.error("%s: %s", one.name, error)
                    hindered.append(error)
                if error is not None and not runs_despite(one, error):
                    continue
                # It has no secrets: the worker finds them itself.
                metadata: dict[str, dg.RawMetadataValue] = {"config": dg.MetadataValue.json(dict(one.config(platform.settings)))}
                if error is not None:
                    metadata["not_followed"] = str(error)
                yield dg.MaterializeResult(asset_key=key(names.connector(one.name)), metadata=metadata)
            if hindered:
                # What a retry cannot mend comes first.
                raise min(hindered, key=lambda error: isinstance(error, TransientError))

    return applied


def topics(project: Project) -> list[dg.AssetSpec]:
    """Each topic, and the table that it lands in; once, whichever streams of whichever use cases read it."""
    streams, declared = record_streams(project), connectors_of(project)
    return [
        spec
        for topic in topics_of(project)
        for spec in _landed(topic, _written(project, topic, declared), [one for one in streams if one.topic == topic])
    ]


def _written(project: Project, topic: str, declared: Sequence[Connector]) -> tuple[str, list[names.AssetName]]:
    """The room of who writes a topic, and what writes it: connectors, the prediction service what the platform records, else the world."""
    writers = [one.name for one in declared if one.topic is None and topic in {each.name for each in one.topics}]
    if writers:
        return names.STREAMING_INGESTION, [names.connector(writer) for writer in writers]
    own = () if project.platform is None else project.platform.streams
    if topic in {stream.topic for stream in own}:
        return names.REALTIME_INFERENCE, [names.endpoint(model.name) for model in project.models]
    return names.SOURCES, []


def _connector(connector: Connector) -> dg.AssetSpec:
    does = f"Lands the topic {connector.topic}" if connector.topic is not None else f"Captures changes from {connector.database}"
    return dg.AssetSpec(
        key(names.connector(connector.name)),
        deps=[key(name) for name in connector.reads],
        group_name=names.STREAMING_INGESTION,
        kinds={"kafka", "iceberg" if connector.topic is not None else "debezium"},
        owners=list(connector.owners),
        description=f"{does}: the connector {connector.name} of Kafka Connect, as it is declared, with the topics that it needs.",
        metadata={"connector": connector.name},
    )


def _landed(topic: str, written: tuple[str, list[names.AssetName]], streams: Sequence[RecordStream]) -> list[dg.AssetSpec]:
    """A topic with all its streams, and the table that it lands in; `written` is the room of who writes it, and what does."""
    room, writers = written
    owners = sorted({stream.contract.owner for stream in streams})
    return [
        dg.AssetSpec(
            key(names.topic(topic)),
            deps=[key(writer) for writer in writers],
            group_name=room,
            kinds={"kafka"},
            owners=owners,
            description=f"The topic {topic} of the broker.",
            metadata={"topic": topic},
        ),
        dg.AssetSpec(
            key(names.landed(topic)),
            deps=[key(names.connector(names.landing_connector(topic)))],
            group_name=names.STREAMING_INGESTION,
            kinds={"kafka", "iceberg"},
            owners=owners,
            description=f"Records of the topic {topic} as they are: bytes, partition, offset and time. Kafka Connect appends them.",
            metadata={"topic": topic, "dagster/table_name": ".".join(names.landed(topic))},
        ),
    ]
