"""Models of dbt as its manifest has them, for tests of reference data: a register with history, one without, and who reads them."""

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline_assets.core import names
from pipeline_assets.processing.cleaning.references import References

VERSIONED = ("key", "known_at", "superseded_at")

Node = Mapping[str, Any]


def node(
    name: str,
    *reads: str,
    schema: str = names.CLEANED,
    columns: Iterable[str] = ("key",),
    event_time: str | None = None,
    declared: object = None,
) -> Node:
    """One model, with the names of the models that it reads; `declared` is what its meta says of `current_value_only`."""
    meta = {} if declared is None else {names.CURRENT_VALUE_ONLY: declared}
    return {
        "name": name,
        "schema": schema,
        "columns": {column: {} for column in columns},
        "config": {"event_time": event_time, "meta": meta},
        "reads": reads,
    }


def references(*added: Node) -> References:
    """Customers with their history, countries without one, orders by the day; and what is added, built by the day if it reads orders."""
    nodes: dict[str, Node] = {
        one["name"]: one
        for one in (
            node("stg_customers", schema=names.STAGING, columns=VERSIONED),
            node("customers_history", "stg_customers", columns=VERSIONED),
            node("customers", "customers_history"),
            node("countries", "stg_countries"),
            node("stg_countries", schema=names.STAGING),
            node("stg_orders", schema=names.STAGING),
            *added,
        )
    }
    parents = {name: list(one["reads"]) for name, one in nodes.items()}
    by_day = {"stg_orders"}
    while more := {name for name, read in parents.items() if by_day & {*read}} - by_day:
        by_day |= more
    manifest = {"nodes": nodes, "parent_map": parents}
    return References(manifest=manifest, models=frozenset(nodes), by_day=frozenset(by_day), ends=frozenset({"superseded_at"}))
