"""The assets of the sources: tables and endpoints of outside systems, each with the contract it has to keep."""

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.resources import column_schema, key
from pipeline_assets.ingestion.sources.origins import kind_of, odcs, source_name
from pipeline_assets.spec.sources import Source
from pipeline_assets.spec.use_case import UseCase


def defs(use_case: UseCase) -> dg.Definitions:
    """One external asset a source: the platform reads it and never writes it."""
    return dg.Definitions(assets=[_source(source) for source in use_case.sources])


def _source(source: Source) -> dg.AssetSpec:
    contract = source.contract
    return dg.AssetSpec(
        key(source_name(source.origin)),
        group_name=names.SOURCES,
        kinds={kind_of(source.origin)},
        owners=[contract.owner],
        description=contract.description,
        metadata={
            "dagster/column_schema": column_schema(contract),
            "dagster/table_name": ".".join(source_name(source.origin)),
            "contract": dg.MetadataValue.json(odcs(contract)),
            "contract_version": contract.version,
            "load": source.load,
        },
    )
