"""The assets of streaming ingestion: landed topics, their records as rows, and these as files: events by day, tables as they stand."""

import dagster as dg

from pipeline_assets.core.project import Project
from pipeline_assets.ingestion.streaming import sensors
from pipeline_assets.ingestion.streaming.audit import assets as audit
from pipeline_assets.ingestion.streaming.capture import assets as capture
from pipeline_assets.ingestion.streaming.health import assets as health
from pipeline_assets.ingestion.streaming.staged import assets as staged
from pipeline_assets.ingestion.streaming.streams import followed, record_streams
from pipeline_assets.ingestion.streaming.typed import assets as typed


def defs(project: Project) -> dg.Definitions:
    """Each topic as it lands, its records as typed rows, and what is staged of them: the days of streams, the rows of followed tables.

    Connectors, topics, checks and all sensors but those of the days are made once from all use cases; none where there is no stream.
    """
    streams = record_streams(project)
    if not streams:
        return dg.Definitions()
    tables = [typed.typed(project, stream) for stream in streams]
    days = [staged.events(project, stream) for stream in project.streams]
    rows = [staged.table(project, source) for source in followed(project)]
    graph = dg.Definitions(
        assets=[capture.connectors(project), *capture.topics(project), *tables, *days, *rows],
        asset_checks=[health.is_progressing(project), audit.reconciled(project)],
    )
    return dg.Definitions.merge(graph, sensors.defs(project, [check for table in tables for check in table.check_keys]))


def health_checks(project: Project) -> list[dg.AssetCheckKey]:
    """The checks that a sensor evaluates, which sees over time what no run can see."""
    return [spec.key for spec in health.specs(project)]


def audit_checks(project: Project) -> list[dg.AssetCheckKey]:
    """The checks of the audit; they read all there is, and so run in a job of their own."""
    return [spec.key for spec in audit.specs(project)]
