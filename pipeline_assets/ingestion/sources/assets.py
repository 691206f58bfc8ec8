"""The assets of the sources: tables and endpoints of outside systems, each with the contract it has to keep."""

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import column_schema, key, use_case_tags
from pipeline_assets.ingestion.sources.origins import kind_of, odcs, source_name
from pipeline_assets.spec.sources import Source


def defs(project: Project) -> dg.Definitions:
    """One external asset per source: the platform reads it and never writes it."""
    return dg.Definitions(assets=[_source(project, source) for source in project.sources])


def _source(project: Project, source: Source) -> dg.AssetSpec:
    contract = source.contract
    return dg.AssetSpec(
        key(source_name(source.origin)),
        group_name=names.SOURCES,
        kinds={kind_of(source.origin)},
        owners=[contract.owner],
        tags=use_case_tags(project.home_of(contract)),
        description=contract.description,
        metadata={
            "dagster/column_schema": column_schema(contract),
            "dagster/table_name": ".".join(source_name(source.origin)),
            "contract": dg.MetadataValue.json(odcs(contract)),
            "contract_version": contract.version,
            "load": source.load,
        },
    )
