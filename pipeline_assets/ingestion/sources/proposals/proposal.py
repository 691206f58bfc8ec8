"""What a sample shows of its source, as a contract, and what each part of that rests on."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import Decimal

from pipeline_assets.core.errors import ProposalRefused
from pipeline_assets.core.rules.problems import NAME, NAME_RULE
from pipeline_assets.ingestion.sources.proposals.code import text
from pipeline_assets.ingestion.sources.proposals.keys import guessed_key
from pipeline_assets.ingestion.sources.proposals.samples import Column, Sample
from pipeline_assets.ingestion.sources.proposals.times import UNSEEN, Times, guessed_times
from pipeline_assets.spec.contracts import CLOCK_TOLERANCE, Contract, Field

OWNER, VERSION, BROKEN_SHARE = "team:unknown", "0.1.0", 0.01
# Values that are few, and come again and again, are shown.
FEW_VALUES, TIMES_EACH = 12, 5
SHOWN_LENGTH = 40
# Years that no clock shows.
STAND_INS = {1, 9999}
LONGEST_DESCRIPTION = 1_000
# Where nothing can be one of the two times; no field has such a name, so the declaration is refused until it is edited.
NO_TIME = "?"
WITHOUT_TIME = (
    "no field can say when a row happened and was known: that takes a time with a zone that is never null. "
    "Have one at the source, or in a view of it"
)


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A contract that the sample keeps, its two times as they were guessed (None: there are none), and what is to be known of its parts.

    comments: by field of the contract, by name of one of its fields behind a dot (`.amount`), what stands above it. left_out: columns that
    are no fields, with the reason. problem: why it cannot be loaded before it was edited.
    """

    sample: Sample
    contract: Contract
    times: Times | None
    comments: Mapping[str, Sequence[str]]
    left_out: Sequence[tuple[str, str]]
    problem: str = ""
    remarks: Sequence[str] = field(default=())

    @property
    def is_keyed(self) -> bool:
        """Whether the source itself knows its rows by the key."""
        return bool(self.sample.key) and self.contract.primary_key == self.sample.key


def proposed(name: str, sample: Sample, *, known_at: str | None = None) -> Proposal:
    """The contract that a sample shows; `known_at` is the column of that time, where it is certain.

    Raises ProposalRefused where no column can be a field.
    """
    served = [_named(column) for column in sample.columns]
    columns = [column for column in served if column.type is not None]
    left_out = [(column.name, column.reason) for column in served if column.type is None]
    if not columns:
        shown = "; ".join(f"{text(name)}: {reason}" for name, reason in left_out[:5])
        raise ProposalRefused(name, f"no column can be a field ({shown or 'there are no columns'})")
    times = guessed_times(columns, sample.days, known_at)
    return _proposal(name, sample, columns, left_out, times)


def _proposal(name: str, sample: Sample, columns: Sequence[Column], left_out: Sequence[tuple[str, str]], times: Times | None) -> Proposal:
    declared = {column.name for column in columns}
    is_known = any(column.is_added for column in columns)
    is_certain = bool(sample.key) and declared >= set(sample.key)
    key = guessed_key(columns, times, sample.rows)
    instants = {times.event_at, times.known_at} if times is not None else set[str]()
    contract = Contract(
        name=name,
        version=VERSION,
        owner=OWNER,
        description=_described(sample.description) or f"Rows of {name}.",
        fields=tuple(_field(column, is_time=column.name in instants) for column in columns),
        primary_key=sample.key if is_certain else key.fields,
        event_at=NO_TIME if times is None else times.event_at,
        known_at=NO_TIME if times is None else times.known_at,
        lateness=UNSEEN if times is None else times.lateness,
        freshness=UNSEEN if times is None else times.freshness,
        broken_share=BROKEN_SHARE,
        earliness=CLOCK_TOLERANCE if times is None else times.earliness,
    )
    of_key = {} if is_certain else {"primary_key": [f"guess: {key.why}"]}
    of_fields = {f".{column.name}": list(_remarks(column, sample.rows, instants)) for column in columns}
    to_edit = {"owner": ["edit: who answers for it"], "broken_share": ["edit: which share of the rows may break"]}
    comments = {**to_edit, **of_key, **_of_times(times, is_certain=is_known), **of_fields}
    return Proposal(
        sample=sample,
        contract=contract,
        times=times,
        comments=comments,
        left_out=left_out,
        problem=WITHOUT_TIME if times is None else "",
        remarks=sample.remarks,
    )


def _named(column: Column) -> Column:
    """The column, if a field may have its name."""
    if column.type is None or NAME.fullmatch(column.name):
        return column
    return replace(column, type=None, reason=f"{column.type}, but its name is not {NAME_RULE}")


def _field(column: Column, *, is_time: bool) -> Field:
    is_required = not column.nulls and bool(column.values) if column.required is None else column.required
    return Field(
        name=column.name,
        type=column.type or "string",
        description=_described(column.description) or column.name,
        required=is_required or is_time,
        minimum=column.minimum,
        maximum=column.maximum,
        precision=column.precision,
        scale=column.scale,
        allowed=column.allowed,
        max_length=column.max_length,
    )


def _described(given: str) -> str:
    """A comment of a catalog in one line."""
    return " ".join(given.encode(errors="replace").decode().split())[:LONGEST_DESCRIPTION]


def _of_times(times: Times | None, *, is_certain: bool) -> dict[str, list[str]]:
    if times is None:
        return {
            "event_at": ["edit: a time of the row, see above"],
            "known_at": ["edit: likewise"],
            "lateness": ["edit"],
            "freshness": ["edit"],
        }
    why = "by name and by the order of the values"
    is_one = times.event_at == times.known_at
    found = {"event_at": ["guess: a row happens when it is known" if is_one else f"guess: {why}"]}
    if not is_certain:
        found["known_at"] = [f"guess: {why}"]
    if times.event_at != times.known_at:
        found["lateness"] = [_guess("known_at - event_at", times.seen_late)]
    if times.seen_early is not None:
        found["earliness"] = [_guess("event_at - known_at", times.seen_early)]
    return found | {"freshness": [_guess("from one event_at to the next", times.seen_gap)]}


def _guess(what: str, seen: object) -> str:
    return f"guess: {what} was at most {seen}" if seen is not None else f"guess: nothing was seen of {what}"


def _remarks(column: Column, rows: int, instants: set[str]) -> Iterator[str]:
    """What was seen of a column."""
    if column.is_added:
        return
    yield from column.remarks
    seen = [part for part in (_range(column), _lengths(column), _nulls(column, rows)) if part]
    if seen:
        yield f"seen: {'; '.join(seen)}"
    if column.type == "timestamp" and any(value.year in STAND_INS for value in column.values if value is not None):
        yield "edit: years 1 and 9999 may stand for none, which `sentinels` say"
    few = _few_values(column)
    if few:
        yield f"the values seen: {', '.join(text(value[:SHOWN_LENGTH]) for value in few)}"
    if column.required is False and column.name in instants:
        yield "guess: required, as no null was seen; the source allows it"


def _range(column: Column) -> str:
    values = [value for value in column.values if value is not None]
    if column.type not in {"integer", "number", "decimal", "timestamp"} or not values:
        return ""
    return f"{_shown(min(values))} to {_shown(max(values))}"


def _lengths(column: Column) -> str:
    if column.type != "string" or column.max_length is not None or column.allowed:
        return ""
    longest = max((len(value) for value in column.values if value is not None), default=None)
    return "" if longest is None else f"at most {longest:,} characters"


def _nulls(column: Column, rows: int) -> str:
    if column.nulls:
        return f"null in {column.nulls:,} of {rows:,} rows"
    return "no null" if column.required is False and rows else ""


def _few_values(column: Column) -> list[str]:
    values = [value for value in column.values if value is not None] if column.type == "string" and not column.allowed else []
    found = sorted(set(values))
    return found if len(found) <= FEW_VALUES and len(values) >= TIMES_EACH * len(found) else []


def _shown(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return f"{value:f}" if isinstance(value, Decimal) else repr(value)


def name_of(given: str) -> str:
    """A name that a contract may have, from that of a table, a file or a topic."""
    words = re.sub(r"[^a-z0-9]+", "_", given.lower()).strip("_")
    return re.sub(r"^[^a-z]+", "", words)[:48].rstrip("_") or "source"


def are_within(proposal: Proposal, days: Sequence[date]) -> bool:
    """Whether each row of the sample happened on the day that the source has it under."""
    column = next((one for one in proposal.sample.columns if one.name == proposal.contract.event_at), None)
    return column is not None and all(value.astimezone(UTC).date() == day for value, day in zip(column.values, days, strict=True))
