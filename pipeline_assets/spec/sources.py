"""Where rows come from: tables of an operational database, pages of a REST API, files, topics of events."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from pipeline_assets.spec.contracts import Contract
from pipeline_assets.spec.rest import ApiKey, CursorPages, Login, Pages


@dataclass(frozen=True, kw_only=True)
class PostgresTable:
    """A table of an operational database; the settings give the DSN of `database`."""

    database: str
    table: str
    schema: str = "public"


@dataclass(frozen=True, kw_only=True)
class RestEndpoint:
    """An endpoint of a REST API; the settings give the URL of `service`, and what its `login` needs.

    path, and the values of `query` and `body`: templates that take `since` and `until`, the bounds of the day that is asked for (half open,
    UTC), in ISO 8601, in a format of `strftime` (`{since:%Y-%m-%d}`), or as `{since:epoch}` and `{since:epoch_ms}`. A snapshot is asked for
    without the parameters that name a time. Loaded `incremental`, `since` is the newest value of the cursor that was read, less its
    lateness (a number as it is); the first time it is asked without those parameters.
    body: of a request by POST, values by their places in a JSON object, with dots (`variables.first`); braces that begin no template are
    doubled. The parameters of `pages` then stand in it too.
    records: where in the answer the list of rows is, with dots (`data.items`); empty where the answer itself is the list.
    nothing: statuses that mean that there are no rows. error: where an answer of success reports an error, if it has one.
    More than `max_pages` of a day, or of all there is, count as pages that never end; a page has at most `max_page_bytes`, unpacked, and is
    waited for at most `page_seconds`, all attempts together. No more than `requests_per_second` are sent (None: as many as the server
    answers).
    """

    service: str
    path: str
    records: str
    query: tuple[tuple[str, str], ...] = (("since", "{since}"), ("until", "{until}"))
    body: tuple[tuple[str, str | int], ...] | None = None
    pages: Pages = CursorPages()
    login: Login = ApiKey()
    page_size: int = 1000
    max_pages: int = 10_000
    max_page_bytes: int = 64 << 20
    page_seconds: float = 120.0
    nothing: tuple[int, ...] = ()
    error: str | None = None
    requests_per_second: float | None = None


@dataclass(frozen=True, kw_only=True)
class CsvFile:
    """Lines of values (RFC 4180) in UTF-8; an empty value is null, an empty line is no row.

    The first line names the columns, in any order and with others among them; a file without such a line has `columns`.
    """

    columns: tuple[str, ...] | None = None
    delimiter: str = ","


@dataclass(frozen=True, kw_only=True)
class JsonLines:
    """One JSON object per line, in UTF-8; an empty line is no row."""


@dataclass(frozen=True, kw_only=True)
class ParquetFile:
    """Parquet, with a column for each of the contract's fields."""


FileFormat = CsvFile | JsonLines | ParquetFile


@dataclass(frozen=True, kw_only=True)
class Files:
    """Files below a folder on disk or a prefix of an object store; the settings give the URL of `folder`.

    `pattern` is the path of the files below it: `*` and `?` stand for any signs but a slash, and the codes of `strftime` for the parts of a
    UTC day (`%Y`, `%m`, `%d`, `%j`, `%y`; `%%` is a percent sign), as in `orders/%Y-%m-%d/*.csv.gz`. Loaded `daily` a file belongs to the
    day in its path, as a `snapshot` all files together are the table, and `incremental` each file is read once. Files that end in `.gz` or
    `.zst` are compressed. A file whose name begins with a dot or an underscore, or ends in `.tmp`, `.part`, `.partial` or `.filepart`, is
    not there yet.
    """

    folder: str
    pattern: str
    format: FileFormat


Origin = PostgresTable | RestEndpoint | Files
Load = Literal["daily", "snapshot", "incremental", "changes"]


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """The column by which new and changed rows of a table or an API are found: one that every write sets anew, and never back.

    `column` is a field of the contract: the time of the write, or a whole number that grows. Rows become visible when they are committed,
    and their column was set before that, so each reading goes back behind the one before by `lateness`: a length of time that no
    transaction stays open for (clocks that differ included), or so many numbers; of an API longer than a reading takes, as records change
    while pages are read. What was seen before is not doubled.
    """

    column: str
    lateness: timedelta | int


@dataclass(frozen=True, kw_only=True)
class Source:
    """A contract and the place that keeps it.

    `daily` loads one UTC day of the contract's `event_at` at a time; `snapshot` loads the whole table each time; `incremental` loads the
    rows that are new since the last time; `changes` follows the replication log of a Postgres table, so that a
    change is known seconds after its commit, and deletes are known at all.

    What was written to a table since is found by Postgres' own number of the writing transaction (`xmin`), exactly, by going through the
    table; or by a `cursor`, which an index serves. An API is read by a `cursor`. These leave out deletions, which a run finds when asked to
    (`find_deletes`), by all keys. Of files each is read once, by its content; they add rows, and take none away.

    A row's two times are the contract's fields, whichever way it is loaded. A change that leaves the field of `known_at` as it was, sets it
    back, or puts it after its commit, is known at its commit (in a batch it takes the place of the version before). With `known_at_commit`
    the field is not looked for in a followed table: each version is known at the commit of its change, and what stood in the first snapshot
    from that on, so that nothing is known of the time before. Prefer a field that the table keeps: the commit is that of the database that
    a row was last copied to. Deletions have no field, and are known at their commit. A later snapshot, as after a restore, changes only
    what differs.
    """

    contract: Contract
    origin: Origin
    load: Load
    known_at_commit: bool = False
    cursor: Cursor | None = None


@dataclass(frozen=True, kw_only=True)
class JsonObject:
    """Each record is a JSON object with the contract's fields.

    `is_framed`: five bytes stand before it, a zero and the id that a schema registry gave its JSON Schema (Confluent's wire format). With
    `registry`, whose URL and credentials the settings give, that id must be of a JSON Schema there. The contract alone says which values
    are good: records are not held against the schema of the registry.
    """

    is_framed: bool = False
    registry: str | None = None


@dataclass(frozen=True, kw_only=True)
class CsvLine:
    """Each record is a line of values (RFC 4180) in the order of `columns`; an empty value is null."""

    columns: tuple[str, ...]
    delimiter: str = ","


@dataclass(frozen=True, kw_only=True)
class Avro:
    """Each record is an Avro record of `schema` (JSON text), without a container.

    `is_framed`: five bytes stand before it, a zero and the id that a schema registry gave its schema (Confluent's wire format). The
    settings give URL and credentials of `registry`: with one, a record is read with the schema that it was written with, which the
    registry has under that id with all that it refers to, and resolved to `schema` by Avro's rules; without one it must have been written
    with `schema`.
    """

    schema: str
    is_framed: bool = False
    registry: str | None = None


@dataclass(frozen=True, kw_only=True)
class Protobuf:
    """Each record is a Protobuf message whose full name, with its package, is `message`; its fields are those of the contract by name.

    schema: the text of the `.proto` file that declares the message; `imports` are pairs of path and text of the files that it imports, but
    for those of `google/protobuf`. Instead, with `registry`, a record is read with the schema that it was written with; the settings give
    URL and credentials.
    `is_framed`: before the message stand a zero, the id that a schema registry gave its schema, and the place of the message in that
    (Confluent's wire format).

    An enum is the name of its value, `google.protobuf.Timestamp` an instant (what is finer than a microsecond is cut off), its wrappers
    their value or null, and `confluent.type.Decimal` a decimal. What is not there is null where Protobuf can say so (`optional`, members of
    a `oneof`, messages, proto2), else the default of its type. Lists, maps, bytes and other messages can be no field of a contract.
    """

    message: str
    schema: str | None = None
    imports: tuple[tuple[str, str], ...] = ()
    is_framed: bool = False
    registry: str | None = None


@dataclass(frozen=True, kw_only=True)
class CloudEvent:
    """Each record is a CloudEvents 1.0 event in structured JSON whose `data` holds the contract's fields.

    attributes: pairs of an attribute of the envelope (such as `id`, `source`, `type`, `time`) and the field that takes its value.
    `is_binary`: records may be in binary mode too. Their value is the data, their headers are the attributes (`ce_id`, `ce_time` and so
    on, `content-type` for `datacontenttype`), and so headers are landed: those that an event must have, and those that are named here.
    """

    attributes: tuple[tuple[str, str], ...] = ()
    is_binary: bool = False


@dataclass(frozen=True, kw_only=True)
class DebeziumChange:
    """Each record is a change of a row in Debezium's JSON envelope: the row after it, or before it where it was deleted.

    `operation` (c, u, d, r, or t where the table was truncated), `lsn`, `committed_at`, `transaction` and `snapshot` name the fields that
    take what the envelope says of the change, if any does; `absent` the one that takes which of the other declared fields the row after the
    change does not have at all, as a JSON array (null: it has them all). The empty record that follows a deletion for Kafka's sake is no
    event.
    """

    operation: str | None = None
    lsn: str | None = None
    committed_at: str | None = None
    transaction: str | None = None
    snapshot: str | None = None
    absent: str | None = None


Format = JsonObject | CsvLine | Avro | Protobuf | CloudEvent | DebeziumChange


@dataclass(frozen=True, kw_only=True)
class Route:
    """Which records of a topic that carries several types of events belong to a stream: those whose `field` is `value`.

    `field` is one of the record or, where there is an envelope, of that: an attribute of a CloudEvent, a field of Debezium's `source`. All
    streams of a topic are routed by the same field; what none of them takes, and what cannot be read, is quarantined by the one declared
    first.
    """

    field: str
    value: str


@dataclass(frozen=True, kw_only=True)
class RecordStream:
    """Records of a topic, held against a contract.

    `format` says how a record is written. The contract's `known_at` comes from its own field, or from the record's time in the topic if
    `known_at_record_time`; then the field need not be in the record, and what stands there is not taken.
    """

    contract: Contract
    topic: str
    format: Format = JsonObject()
    route: Route | None = None
    known_at_record_time: bool = False


@dataclass(frozen=True, kw_only=True)
class History:
    """What happened before a topic began: the rows of a batch source, all of them or those whose `field` is `value`.

    The columns carry the names of the stream's contract.
    """

    source: Source
    field: str | None = None
    value: str | None = None


@dataclass(frozen=True, kw_only=True)
class EventStream(RecordStream):
    """Events as they happen: a topic, and where there is one the `history` from before the topic began."""

    history: History | None = None
