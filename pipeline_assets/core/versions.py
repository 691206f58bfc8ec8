"""Versions of a row: how staged rows, lake and warehouse carry them, from each source in the same way.

Every version of a key is a row of its own, with the fields of its contract. It counts from its `known_at` until the next version of the
key is known, or until it ended at its source.
"""

from dataclasses import replace

from pipeline_assets.spec.contracts import Contract, Field
from pipeline_assets.spec.sources import Source

DELETED_AT = "_deleted_at"
FIELD = Field(
    name=DELETED_AT,
    type="timestamp",
    description="When the row was deleted at its source, or what it became broke the contract; null where it was not.",
)


def versioned(contract: Contract) -> Contract:
    """The contract of all versions of a contract's rows; the same for one that has it already."""
    return contract if FIELD in contract.fields else replace(contract, fields=(*contract.fields, FIELD))


def version_key(contract: Contract) -> tuple[str, ...]:
    """The fields that identify a version: the primary key, and when it was known."""
    return tuple(dict.fromkeys((*contract.primary_key, contract.known_at)))


def in_table(source: Source) -> Contract:
    """The contract of what stands in a source itself: without the field of `known_at` where that is the commit of a change."""
    contract = source.contract
    if not source.known_at_commit:
        return contract
    return replace(contract, fields=tuple(field for field in contract.fields if field.name != contract.known_at))
