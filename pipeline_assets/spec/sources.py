"""Where rows come from: tables of an operational database, pages of a REST API, topics of events."""

from dataclasses import dataclass
from typing import Literal

from pipeline_assets.spec.contracts import Contract


@dataclass(frozen=True, kw_only=True)
class PostgresTable:
    """A table of an operational database; the settings give the DSN of `database`."""

    database: str
    table: str
    schema: str = "public"


@dataclass(frozen=True, kw_only=True)
class RestEndpoint:
    """A paged endpoint of a REST API; the settings give URL and key of `service`.

    Asked with `since` and `until` (ISO 8601, half open, UTC), `limit` and `cursor`; answers a JSON object whose `records` holds the rows
    and whose `next_cursor` is null on the last page.
    """

    service: str
    path: str
    records: str
    page_size: int = 1000


Origin = PostgresTable | RestEndpoint
Load = Literal["daily", "snapshot", "changes"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A contract and the place that keeps it.

    `daily` loads one UTC day of the contract's `event_at` at a time; `snapshot` loads the whole table each time; `changes` follows the
    replication log of a Postgres table, so that a change is known seconds after its commit, and deletes are known at all.

    A row's two times are the contract's fields, whichever way it is loaded. The commit time stands beside them in the change log, but is
    the time of the database that the row was last copied to: a restore would make all that it holds known only now.
    """

    contract: Contract
    origin: Origin
    load: Load


@dataclass(frozen=True, kw_only=True)
class EventStream:
    """Events as they happen: a topic, and the batch source that holds what happened before the topic began.

    A row of `history` belongs to this stream if `history_field` equals `history_value`; its columns carry the names of the contract.
    """

    contract: Contract
    topic: str
    history: Source
    history_field: str
    history_value: str
