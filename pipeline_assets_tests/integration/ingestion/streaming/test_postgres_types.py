"""Each type of Postgres with values at its edges, as a batch, by a snapshot, and as changes: one value, or one fault, in all three."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from psycopg.sql import SQL, Identifier, Literal

from pipeline_assets.core import names
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.versions import in_table
from pipeline_assets.ingestion.batch.postgres import open_table
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.ingestion.sources.contracts import fault
from pipeline_assets.ingestion.sources.json_objects import json_object
from pipeline_assets.ingestion.streaming.audit.audit import read_log, verify
from pipeline_assets.ingestion.streaming.staged.changes import merge
from pipeline_assets.ingestion.streaming.staged.state import stage_state
from pipeline_assets.ingestion.streaming.streams import change_log, followed_table
from pipeline_assets.spec.sources import PostgresTable, Source
from pipeline_assets_tests.postgres_edges import EDGES, KEY, column, edge_rows, edges_contract, edges_ddl, unserved
from pipeline_assets_tests.readings import World
from pipeline_assets_tests.stream_pipelines import Pipeline, tables_on

# What is inserted once the table is followed has keys from here on.
CHANGED = 1_000
ROWS = list(edge_rows())
Values = Mapping[int, Any]


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The rows that came out by their key, and the fault of each that did not: as a batch, as changes, and staged of these.

    `problems` is what the audit found.
    """

    batch: Values
    changes: Values
    staged: Values
    problems: list[str]


def sources_in(database: str) -> list[Source]:
    """The table of all types."""
    return [Source(contract=edges_contract(f"edges_{database}"), origin=PostgresTable(database=database, table="edges"), load="changes")]


def fill(pipeline: Pipeline, first: int) -> None:
    """Inserts all rows, with keys from `first` on."""
    with pipeline.operations() as connection:
        for number, row in enumerate(ROWS):
            columns, texts = (
                [Identifier(KEY), *map(Identifier, row.texts)],
                [Literal(str(first + number)), *map(Literal, row.texts.values())],
            )
            connection.execute(SQL("insert into edges ({}) values ({})").format(SQL(", ").join(columns), SQL(", ").join(texts)))


def as_a_batch(pipeline: Pipeline, source: Source) -> Values:
    """What a batch reads."""
    found: dict[int, Any] = {}
    with open_table(pipeline.settings, source.contract, followed_table(source)) as table, table.reader() as read:
        for part in read(None):
            found |= {row[KEY]: row for row in part.good.to_pylist()}
            found |= {json_object(row.original)[KEY]: row.fault for row in part.broken}
    return found


def as_changes(pipeline: Pipeline, source: Source) -> Values:
    """What the change log leaves, and what of it is in quarantine."""
    rows = merge(read_log(pipeline.settings, source), in_table(source)).rows.to_pylist()
    broken = quarantine.listed(pipeline.settings, source=change_log(source).contract.name)
    faults = {json_object(row.original)["after"][KEY]: fault(row.field, row.reason) for row in broken}
    return {row[KEY]: row for row in rows} | faults


def audited(pipeline: Pipeline, source: Source) -> list[str]:
    """What the audit finds once all that was written has been typed."""
    asked = [names.typed(change_log(source).contract.name)]
    return [problem for one in verify(pipeline.settings, pipeline.project, asked, pipeline.tick) for problem in one.problems]


def as_staged(pipeline: Pipeline, source: Source) -> Values:
    """The rows that stand in the staged files, and the faults of what is in quarantine instead."""
    name = source.contract.name
    rows = World(settings=pipeline.settings, name=name).staged(names.SNAPSHOT)
    broken = quarantine.listed(pipeline.settings, source=name)
    return {row[KEY]: row for row in rows} | {json_object(row.original)[KEY]: fault(row.field, row.reason) for row in broken}


@pytest.fixture(scope="module")
def loaded(streams: Settings) -> Iterator[Loaded]:
    """All rows, half of them by a snapshot and half as changes."""
    with tables_on(streams, edges_ddl("edges"), sources_in) as pipeline:
        (source,) = pipeline.project.sources
        fill(pipeline, 0)
        pipeline.connect()
        problems = audited(pipeline, source)
        stage_state(pipeline.settings, source, run_id="test")
        fill(pipeline, CHANGED)
        problems += audited(pipeline, source)
        merged = stage_state(pipeline.settings, source, run_id="test")
        assert merged.whole_because is None
        read = (as_a_batch(pipeline, source), as_changes(pipeline, source), as_staged(pipeline, source))
        yield Loaded(batch=read[0], changes=read[1], staged=read[2], problems=problems)


@pytest.mark.parametrize("number", range(len(EDGES)), ids=[f"{edge.sql} as {edge.type}" for edge in EDGES])
def test_each_value_of_a_type_is_the_same_in_a_batch_and_in_changes(loaded: Loaded, number: int) -> None:
    """And it is the right one: as Postgres has it, rounded nowhere; one that no field has breaks its row, with the same reason."""
    name = column(number)
    for place, row in enumerate(ROWS):
        if name in row.texts:
            expected = row.values.get(name) if row.fault is None else row.fault
            found = [
                [each[key][name] if isinstance(each[key], Mapping) else each[key] for key in (place, CHANGED + place)]
                for each in (loaded.batch, loaded.changes, loaded.staged)
            ]

            assert found == [[expected] * 2] * 3, row.texts[name]


def test_nothing_of_the_table_is_lost_and_the_audit_agrees(loaded: Loaded) -> None:
    """Rows of nulls are rows, broken ones are in quarantine, and both ends are the same."""
    assert (
        sorted(loaded.batch) == sorted(loaded.changes) == sorted(loaded.staged) == [*range(len(ROWS)), *range(CHANGED, CHANGED + len(ROWS))]
    )
    assert loaded.problems == []


def test_no_type_that_may_serve_a_field_is_left_out() -> None:
    """The table of types has edges for each."""
    assert unserved() == set()
