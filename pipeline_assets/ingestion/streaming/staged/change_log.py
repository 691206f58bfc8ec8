"""The contract of a change log: a table's fields, and the columns that say of each change what it did, and when."""

from dataclasses import replace

from pipeline_assets.core import names
from pipeline_assets.spec.contracts import Contract, Field

OPERATION, LSN, COMMITTED_AT = "_op", "_lsn", "_committed_at"
READ, CREATED, DELETED, TRUNCATED = "r", "c", "d", "t"
# The place of a record in its topic, as the typed table has it.
TOPIC, PARTITION, OFFSET = "_topic", "_partition", "_offset"
# The transaction's id, the place of a row in a snapshot, the fields that a change lacked, and those that could not be read, where the log
# has them.
TRANSACTION, SNAPSHOT, ABSENT, BROKEN = "_txid", "_snapshot", "_absent", "_broken"
BROKEN_FIELD = Field(
    name=BROKEN,
    type="string",
    description="What is wrong with the fields that could not be read, as the record is in quarantine; else null.",
)
META_FIELDS = (
    Field(
        name=OPERATION,
        type="string",
        required=True,
        allowed=("c", "u", "d", "r", "t"),
        description="Created, updated, deleted, truncated; r: from a snapshot.",
    ),
    Field(name=LSN, type="integer", required=True, description="Where the change stands in the write-ahead log."),
    Field(name=COMMITTED_AT, type="timestamp", required=True, description="When it was committed, or the snapshot was taken."),
    Field(name=TRANSACTION, type="integer", description="The transaction that made it."),
    Field(name=SNAPSHOT, type="string", description="Its place in a snapshot; of a change, false or null."),
    Field(name=ABSENT, type="string", description="The declared fields that the row did not have; null where it had all."),
    BROKEN_FIELD,
)


def log_contract(contract: Contract) -> Contract:
    """The contract of a table's change log: the same fields and types without rules, since those are held against the merged rows.

    So a change that breaks a rule is in the log, and quarantined when the table is staged, as if it had been read in a batch; and a
    deleted row, of which only the key is known, is in order, as is a truncation, which has none.

    A change with a value that is none of its field's type is in quarantine, and in the log as well: its key, what it did and when, and the
    values that can be read. `_broken` says of each other field what is wrong with it, as a JSON object; it is null in all other changes.
    Once the record has been replayed its change is there too, at the same offset, and takes the place of the broken one.
    """
    loose = [replace(field, required=False, minimum=None, maximum=None, allowed=(), max_length=None) for field in contract.fields]
    return replace(
        contract,
        name=names.change_log(contract.name),
        description=f"Changes of {contract.name}, one row per change as it was emitted.",
        fields=(*loose, *META_FIELDS),
        primary_key=(LSN, OPERATION),
        event_at=COMMITTED_AT,
        known_at=COMMITTED_AT,
    )
