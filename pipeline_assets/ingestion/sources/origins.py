"""What outside systems are called in the asset graph, and what a contract says in the terms of the Open Data Contract Standard."""

import re
from collections.abc import Mapping
from datetime import timedelta

from pipeline_assets.core import names
from pipeline_assets.core.names import AssetName
from pipeline_assets.spec.contracts import Contract, Field, FieldType
from pipeline_assets.spec.sources import Files, Origin, PostgresTable, RestEndpoint

ODCS_VERSION = "v3.0.2"
# The standard's `date` is any point in time, its `number` any number.
LOGICAL_TYPES: Mapping[FieldType, str] = {"timestamp": "date", "decimal": "number"}
# The schema of tables that are named without one.
PUBLIC = "public"


def system_of(origin: Origin) -> str:
    """The outside system that a source is part of: its database, its service or its folder."""
    match origin:
        case PostgresTable():
            return origin.database
        case RestEndpoint():
            return origin.service
        case Files():
            return origin.folder


def source_name(origin: Origin) -> AssetName:
    """The asset of an outside table, of the records of an endpoint, or of files. Tables of one name in two schemas are two assets."""
    match origin:
        case PostgresTable():
            table = origin.table if origin.schema == PUBLIC else f"{origin.schema}__{origin.table}"
            return names.source_asset(origin.database, table)
        case RestEndpoint():
            return names.source_asset(origin.service, _endpoint_name(origin))
        case Files():
            return names.files_asset(origin.folder, origin.pattern)


def _endpoint_name(origin: RestEndpoint) -> str:
    """The last part of its path that is no template: many APIs call their records `data`."""
    parts = [part for part in origin.path.split("/") if part and "{" not in part]
    return re.sub(r"\W", "_", parts[-1] if parts else origin.service)


def kind_of(origin: Origin) -> str:
    """The technology of a source."""
    match origin:
        case PostgresTable():
            return "postgres"
        case RestEndpoint():
            return "rest"
        case Files():
            return "file"


def odcs(contract: Contract) -> dict[str, object]:
    """A contract as a document of the Open Data Contract Standard (https://bitol-io.github.io/open-data-contract-standard/)."""
    return {
        "apiVersion": ODCS_VERSION,
        "kind": "DataContract",
        "id": contract.name,
        "name": contract.name,
        "version": contract.version,
        "status": "active",
        "description": {"purpose": contract.description},
        "team": [{"username": contract.owner, "role": "owner"}],
        "schema": [
            {"name": contract.name, "logicalType": "object", "properties": [_property(contract, field) for field in contract.fields]}
        ],
        "slaProperties": [
            {"property": "latency", "element": contract.known_at, "value": _hours(contract.lateness), "unit": "h"},
            {"property": "frequency", "element": contract.event_at, "value": _hours(contract.freshness), "unit": "h"},
        ],
        "customProperties": [
            {"property": "eventAt", "value": contract.event_at},
            {"property": "knownAt", "value": contract.known_at},
            {"property": "brokenShare", "value": contract.broken_share},
        ],
    }


def _property(contract: Contract, field: Field) -> dict[str, object]:
    limits = {"minimum": field.minimum, "maximum": field.maximum, "maxLength": field.max_length}
    kept = {name: limit for name, limit in limits.items() if limit is not None}
    described: dict[str, object] = {
        "name": field.name,
        "logicalType": LOGICAL_TYPES.get(field.type, field.type),
        "description": field.description,
        "required": field.required,
    }
    if field.type == "decimal":
        described |= {"physicalType": f"decimal({field.precision}, {field.scale})"}
    if field.name in contract.primary_key:
        described |= {"primaryKey": True, "primaryKeyPosition": contract.primary_key.index(field.name) + 1}
    if field.allowed:
        described["quality"] = [{"rule": "validValues", "validValues": list(field.allowed)}]
    return described | ({"logicalTypeOptions": kept} if kept else {})


def _hours(length: timedelta) -> float:
    return length / timedelta(hours=1)
