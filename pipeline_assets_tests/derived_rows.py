"""Rows at the edges of their types in several versions, and dbt models that calculate with them, for the tests of derivations."""

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

from pipeline_assets.core.versions import DELETED_AT
from pipeline_assets.spec.contracts import Contract, Field
from pipeline_assets.spec.sources import EventStream
from pipeline_assets.spec.use_case import UseCase

Row = dict[str, Any]
START = datetime(2024, 3, 9, 22, tzinfo=UTC)  # so that the rows cross a change of the clocks of New York
OWNER = "edges@edges.example"
TEXTS = (
    "", " ", "A", "straße", "İSTANBUL", "ßẞ", "Ǆ", "éÉ", "e\u0301", "日本 ", "\t x \n", "O'Neil \\ \"q\"", "🙂z", "ΑΣ", "10.50", "x" * 200,
)  # fmt: skip
NUMBERS = (0.0, -0.0, 0.5, 1.5, 2.5, -0.5, 0.1, 1 / 3, 90.5, 1e-30, -2.675, 1234567.895, 9007199254740993.0)
WHOLE = (0, 1, -1, 7, -7, 89, 2**31, -(2**31), 2**53 + 1, 2**62, -(2**63))
DECIMALS = tuple(map(Decimal, ("0.000000", "0.5", "-0.5", "2.675", "-99999999999999.999999", "12345678901234.567891", "0.000001")))
TIMES = (
    START, START + timedelta(microseconds=1), START + timedelta(hours=9), datetime(1, 1, 1, tzinfo=UTC),
    datetime(9998, 12, 31, 23, 59, tzinfo=UTC),
    datetime(2024, 11, 3, 5, 59, 59, 999999, tzinfo=UTC), datetime(2024, 2, 29, tzinfo=UTC), START + timedelta(minutes=90, seconds=30),
)  # fmt: skip

edge_events = EventStream(
    contract=Contract(
        name="edge_events",
        version="1.0.0",
        owner=OWNER,
        description="Events at the edges.",
        fields=(
            Field(name="shop_id", type="integer", required=True, description="Half of the key."),
            Field(name="code", type="string", required=True, description="The other half."),
            Field(name="label", type="string", description="Text."),
            Field(name="amount", type="number", description="A number."),
            Field(name="pieces", type="integer", description="A whole number."),
            Field(name="price", type="decimal", precision=20, scale=6, description="A decimal."),
            Field(name="is_open", type="boolean", description="Yes or no."),
            Field(name="ended_at", type="timestamp", description="A time."),
            Field(name="began_at", type="timestamp", required=True, description="When it happened."),
            Field(name="recorded_at", type="timestamp", required=True, description="When it was known."),
        ),
        primary_key=("shop_id", "code"),
        event_at="began_at",
        known_at="recorded_at",
        lateness=timedelta(days=30),
        freshness=timedelta(days=1),
        broken_share=0.0,
    ),
    topic="edge-events",
)
edges = UseCase(
    name="edges",
    owner=OWNER,
    description="Edges.",
    first_day=date(2024, 1, 1),
    last_day=None,
    sources=(),
    streams=(edge_events,),
    models=(),
)

STAGING = """with versions as (
    {{ versions_of(source('raw', 'edge_events'), key=['shop_id', 'code'], known_at='recorded_at') }}
)
select
    shop_id, code, label, amount, pieces, price, is_open, ended_at, began_at,
    recorded_at as known_at, superseded_at, version, is_current
from versions
"""
STAGED = {
    "shop_id": "bigint", "code": "text", "label": "text", "amount": "double precision", "pieces": "bigint", "price": "numeric(20,6)",
    "is_open": "boolean", "ended_at": "timestamptz", "began_at": "timestamptz", "known_at": "timestamptz", "superseded_at": "timestamptz",
    "version": "bigint", "is_current": "boolean",
}  # fmt: skip
# What is calculated, by the name of its column: its declared type, and its SQL.
CALCULATED = {
    "minutes": ("bigint", "(extract(epoch from ended_at - began_at) / 60)::bigint"),
    "rounded": ("bigint", "amount::bigint"),
    "cents": ("numeric(24,2)", "price::numeric(22, 3)"),
    "short_float": ("real", "amount / 3"),
    "sevenths": ("bigint", "pieces / 7"),
    "rest": ("bigint", "pieces % 7"),
    "ratio": ("double precision", "pieces::double precision / 3"),
    "mixed": ("double precision", "price * amount"),
    "share": ("numeric", "price / 7"),
    "half": ("numeric", "round(price, 1)"),
    "root": ("double precision", "sqrt(abs(amount)) + floor(amount)"),
    "month_before": ("timestamptz", "began_at - interval '1 month'"),
    "later": ("timestamptz", "began_at + interval '90.5 minutes' * 2"),
    "took": ("interval", "ended_at - began_at"),
    "took_text": ("text", "(ended_at - began_at)::text"),
    "local_day": ("date", "(began_at at time zone 'America/New_York')::date"),
    "local_hour": ("numeric", "extract(hour from began_at at time zone 'Europe/Berlin')"),
    "day": ("date", "began_at::date"),
    "hour": ("timestamptz", "date_trunc('hour', began_at)"),
    "words": ("text", "to_char(began_at, 'YYYY-MM-DD HH24:MI:SS.US') || began_at::text"),
    "lowered": ("text", "lower(label)"),
    "raised": ("text", "upper(label)"),
    "capital": ("text", "initcap(label)"),
    "trimmed": ("text", "trim(both from label) || '|' || btrim(label, E' \\t\\n')"),
    "letters": ("integer", "length(label)"),
    "replaced": ("text", "regexp_replace(label, '[^a-z0-9]+', '_', 'gi')"),
    "digits": ("text", "substring(label from '[0-9.]+')"),
    "is_word": ("boolean", "label ~* '^[[:alpha:]]+$'"),
    "named": ("text", "coalesce(nullif(trim(label), ''), code, 'none')"),
    "is_other": ("boolean", "label is distinct from code"),
    "is_big": ("boolean", "is_open and pieces > 3 or amount is null"),
    "is_small": ("boolean", "not (is_open or pieces between -7 and 7)"),
    "size": ("text", "case when pieces > 7 then 'large' when pieces in (1, 7) then 'small' else 'none' end"),
    "text_of": ("text", "concat_ws('/', amount, price, is_open, pieces)"),
    "read_back": ("double precision", "amount::text::double precision"),
    "as_json": ("text", "to_jsonb(label)::text || jsonb_build_object('a', amount, 'p', price)::text"),
}


def added_models() -> dict[str, str]:
    """The dbt models of the use case, by path: staging, a table of all that is calculated, and one of some rows that reads it."""
    kept = ("shop_id", "code", "began_at", "known_at", "superseded_at", "version", "is_current")
    calculated = "".join(f"    {sql} as {name},\n" for name, (_, sql) in CALCULATED.items())
    history = (
        f"{_config()}select\n{calculated}    {', '.join(kept)}\nfrom ({{{{ rows_of_asked_days(ref('stg_edge_events')) }}}}) as events\n"
    )
    chosen = (
        f"{_config()}select {', '.join(kept)}, sevenths\nfrom {{{{ ref('edges_history') }}}}\nwhere sevenths is null or sevenths >= 0\n"
    )
    of_history = {name: kind for name, (kind, _) in CALCULATED.items()} | {name: STAGED[name] for name in kept}
    models = {
        "staging/stg_edge_events": (STAGING, STAGED),
        "cleaned/edges_history": (history, of_history),
        "cleaned/chosen_history": (chosen, {name: STAGED[name] for name in kept} | {"sevenths": "bigint"}),
    }
    files = {f"models/edges/{path}.sql": sql for path, (sql, _) in models.items()}
    return files | {f"models/edges/{path}.yml": _yml(path, columns) for path, (_, columns) in models.items()}


def rows_at_edges(contract: Contract, random: Random, keys: int, versions: int) -> Iterator[Row]:
    """Raw rows of a contract: up to so many versions of each key, with nulls, bounds, ties, repeats and deletions."""
    for number in range(keys):
        row = _row(contract, random, number)
        for _ in range(random.randint(1, versions)):
            yield row
            kind = random.random()
            if kind < 0.2:  # sent again, perhaps at another time
                row = row | {contract.known_at: row[contract.known_at] + timedelta(seconds=random.choice((0, 0, 5)))}
            elif kind < 0.4:  # deleted, perhaps before it was known
                row = row | {DELETED_AT: row[contract.known_at] + timedelta(seconds=random.choice((-60, 0, 1, 600)))}
            else:
                same_time = {contract.known_at: row[contract.known_at]} if random.random() < 0.3 else {}
                row = _row(contract, random, number) | same_time


def _row(contract: Contract, random: Random, number: int) -> Row:
    row = {field.name: _value(field, random) for field in contract.fields if field.name != DELETED_AT}
    for name in (contract.event_at, contract.known_at):
        row[name] = START + timedelta(seconds=random.randint(0, 200_000), microseconds=random.choice((0, 1, 999_999)))
    for name in contract.primary_key:
        keys = {int: number, str: f"{TEXTS[number % len(TEXTS)]}{number}", datetime: START + timedelta(hours=number)}
        row[name] = keys[type(row[name])]
    return row | {DELETED_AT: None}


def _value(field: Field, random: Random) -> Any:
    values: Mapping[str, tuple[Any, ...]] = {
        "string": TEXTS, "number": NUMBERS, "integer": WHOLE, "decimal": DECIMALS, "boolean": (True, False), "timestamp": TIMES,
    }  # fmt: skip
    if not field.required and random.random() < 0.2:
        return None
    if field.minimum is not None:
        low = int(field.minimum)
        return random.randint(low, low + 30 if field.maximum is None else int(field.maximum))
    if random.random() < 0.5:
        return random.choice(values[field.type])
    anything: Mapping[str, Any] = {
        "string": "".join(chr(random.choice((random.randint(32, 126), random.randint(0xA0, 0x2FFF)))) for _ in range(6)),
        "number": random.uniform(-1e6, 1e6),
        "integer": random.randint(-1_000, 1_000),
        "decimal": Decimal(random.randint(-(10**12), 10**12)) / 10**6,
        "boolean": random.random() < 0.5,
        "timestamp": START + timedelta(seconds=random.uniform(-1e6, 1e6)),
    }
    return anything[field.type]


def _config() -> str:
    return "{{ config(materialized='incremental', unique_key=['shop_id', 'code', 'known_at'], event_time='began_at') }}\n"


def _yml(path: str, columns: Mapping[str, str]) -> str:
    listed = "".join(f"      - {{name: {name}, data_type: '{kind}'}}\n" for name, kind in columns.items())
    return f"models:\n  - name: {path.rpartition('/')[2]}\n    columns:\n{listed}"
