"""What a source promises: its fields, their types and ranges, its key, its two times, its owner.

The terms are those of the Open Data Contract Standard 3 (https://bitol-io.github.io/open-data-contract-standard/): `type` is its
`logicalType`, `required` and `primary_key` its properties of the same name, `freshness` and `lateness` its service levels.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal, get_args

FieldType = Literal["string", "integer", "number", "decimal", "boolean", "timestamp"]
FIELD_TYPES: tuple[FieldType, ...] = get_args(FieldType)
# What the lake and the warehouse both hold.
MOST_DIGITS = 38
# What the clocks of two machines may differ by.
CLOCK_TOLERANCE = timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field of a contract.

    `integer` is 64-bit, `number` a 64-bit float that is neither NaN nor infinite, `timestamp` an instant in UTC to the microsecond in the
    years 1 to 9999. `decimal` has `precision` digits, `scale` of them after the point, and is never rounded: a value with more
    breaks its row. `minimum` and `maximum` are inclusive; `allowed` lists the only values of a string; `max_length` is in characters.

    `sentinels` are values that mean that there is none, and become null: -999 for what was not measured, 9999-12-31 for no end, "N/A". In a
    field that is no string a text is looked for where values come as text (CSV, JSON). NaN, and infinity of numbers and of Postgres' times,
    are `float("nan")`, `float("inf")` and `float("-inf")`. All other values are kept as they are.
    """

    name: str
    type: FieldType
    description: str
    required: bool = False
    minimum: float | None = None
    maximum: float | None = None
    precision: int | None = None
    scale: int | None = None
    sentinels: tuple[str | float | Decimal | datetime, ...] = ()
    allowed: tuple[str, ...] = ()
    max_length: int | None = None


@dataclass(frozen=True, kw_only=True)
class Contract:
    """The promise of one source, enforced alike on batches and on streams.

    `event_at` and `known_at` name the fields of the two times: when a row happened, and when the platform could know it.
    `lateness` bounds known_at − event_at, and `earliness` event_at − known_at: an event is not known before it happens, but for what clocks
    differ by; a plan is known as long ahead as this says. `freshness` is how old the newest row may be; `broken_share` is the share of a
    partition's rows that may go to quarantine before the whole partition is refused.
    """

    name: str
    version: str
    owner: str
    description: str
    fields: tuple[Field, ...]
    primary_key: tuple[str, ...]
    event_at: str
    known_at: str
    lateness: timedelta
    freshness: timedelta
    broken_share: float
    earliness: timedelta = CLOCK_TOLERANCE
