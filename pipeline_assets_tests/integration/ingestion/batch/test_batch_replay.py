"""Replaying quarantined rows after a fix: what joins its partition, once, and what stays."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from pipeline_assets.core.connections import object_store, warehouse
from pipeline_assets.core.errors import SourceChanged
from pipeline_assets.ingestion.batch.load import stage_days
from pipeline_assets.ingestion.batch.replay import Replayed, replay
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.ingestion.staging import partitions as staging
from pipeline_assets.spec.contracts import Field
from pipeline_assets.spec.sources import Source
from pipeline_assets_tests.readings import World, at, day, reading, with_field


@pytest.fixture
def staged(world: World) -> World:
    """A world with a day of which two readings are too high and one has no kind that there is."""
    rows = [reading(sensor="a"), reading(sensor="b", level=11), reading(sensor="c", level=15), reading(sensor="d", kind="upstairs")]
    world.fill([*rows, *(reading(sensor=f"g{number}") for number in range(4))])
    stage_days(world.settings, world.table, day(0), day(0), run_id="r")
    return world


def up_to(maximum: float, world: World) -> Source:
    """The table of a world with a higher bound for the level in its contract."""
    return with_field("level", world.table, maximum=maximum)


def outcome(world: World, replayed: int, still_broken: int) -> list[Replayed]:
    """What a replay of the first day gives."""
    return [Replayed(source=world.name, partition="2013-05-01", replayed=replayed, still_broken=still_broken)]


def test_rows_that_keep_the_present_contract_join_their_partition(staged: World) -> None:
    """After the contract was mended its rows are staged and marked; what still breaks it stays, and the partition is named."""
    found = replay(staged.settings, [up_to(12, staged)])

    assert found == outcome(staged, 1, 2)
    assert sorted(row["sensor"] for row in staged.staged()) == ["a", "b", "g0", "g1", "g2", "g3"]
    assert [(fault, done) for _, _, fault, done in staged.quarantined()] == [
        ("level out of range", True),
        ("level out of range", False),
        ("kind not allowed", False),
    ]
    assert (staged.manifest().rows, staged.manifest().replayed) == (6, 1)


def test_a_replay_happens_once(staged: World) -> None:
    """A second replay finds the rows replayed and adds nothing; a third, under a wider contract, takes only what was left."""
    replay(staged.settings, [up_to(12, staged)])
    before = staged.content(0, 0)

    again = replay(staged.settings, [up_to(12, staged)])
    wider = replay(staged.settings, [up_to(20, staged)])

    assert again == outcome(staged, 0, 2)
    assert wider == outcome(staged, 1, 1)
    assert len(staged.staged()) == 7
    assert before["days"] != staged.content(0, 0)["days"]


def test_without_a_fix_nothing_changes(staged: World) -> None:
    """Rows that are still broken stay as they are, and the partition keeps its very files."""
    before = staged.manifest()

    found = replay(staged.settings, [staged.table])

    assert found == outcome(staged, 0, 3)
    assert staged.manifest() == before


def test_a_replay_that_was_killed_before_its_mark_adds_nothing_twice(staged: World) -> None:
    """The partition has the row already, so it is marked and not added: rows and manifest stay as they are."""
    replay(staged.settings, [up_to(12, staged)])
    before = staged.manifest()
    with warehouse(staged.settings) as connection:
        connection.execute("update quarantine.rows set replayed_at = null where source = %s", [staged.name])

    found = replay(staged.settings, [up_to(12, staged)])

    assert found == outcome(staged, 1, 2)
    assert staged.manifest() == before


def test_reading_the_partition_again_does_not_double_what_was_replayed(staged: World) -> None:
    """The source is the truth: after a new reading each row stands once, in the files or in quarantine."""
    mended = up_to(12, staged)
    replay(staged.settings, [mended])
    before = sorted(staged.staged(), key=lambda row: str(row["sensor"]))

    stage_days(staged.settings, mended, day(0), day(0), run_id="r2")

    assert sorted(staged.staged(), key=lambda row: str(row["sensor"])) == before
    assert [(fault, done) for _, _, fault, done in staged.quarantined()] == [("level out of range", False), ("kind not allowed", False)]


def test_versions_that_pass_stand_beside_those_that_are_staged(world: World) -> None:
    """A replay ends as a new reading would: every version of a key, the newer and the older one, once."""
    later = at(0) + timedelta(minutes=30)
    world.fill([
        reading(sensor="a", level=1), reading(sensor="a", level=11, sent_at=later),
        reading(sensor="b", level=2, sent_at=later), reading(sensor="b", level=12),
    ])  # fmt: skip
    stage_days(world.settings, world.table, day(0), day(0), run_id="r")

    found = replay(world.settings, [up_to(20, world)])

    assert found == outcome(world, 2, 0)
    assert sorted((row["sensor"], row["level"]) for row in world.staged()) == [("a", 1), ("a", 11), ("b", 2), ("b", 12)]
    assert [row for row in quarantine.listed(world.settings, source=world.name) if row.replayed_at is None] == []


def test_a_row_that_ended_with_a_stricter_contract_stands_again(world: World) -> None:
    """Regression: a replayed row was taken for one that the partition held, though it had ended when it was quarantined, and was lost."""
    rows = [*(reading(sensor=f"g{number}") for number in range(4)), reading(sensor="a", level=9)]
    stricter = up_to(8, world)
    source = replace(world.table, contract=replace(world.contract, primary_key=("sensor",)))
    stricter = replace(stricter, contract=replace(stricter.contract, primary_key=("sensor",)))
    world.fill(rows)
    stage_days(world.settings, source, day(0), day(0), run_id="r1")
    stage_days(world.settings, stricter, day(0), day(0), run_id="r2")
    ended = [row for row in world.versions() if row["_deleted_at"] is not None]

    found = replay(world.settings, [source])

    assert [row["sensor"] for row in ended] == ["a"]
    assert found == outcome(world, 1, 0)
    assert [row["level"] for row in world.staged() if row["sensor"] == "a"] == [9]
    assert [row for row in world.versions() if row["_deleted_at"] is not None] == ended


def test_a_field_that_is_new_to_the_contract_is_null_in_rows_that_were_staged_before(staged: World) -> None:
    """An additive change of the contract does not stand in the way of a replay."""
    note = Field(name="note", type="string", description="A remark.")
    wider = up_to(12, staged)

    contract = replace(wider.contract, fields=(*wider.contract.fields, note), version="1.1.0")
    replay(staged.settings, [replace(wider, contract=contract)])

    assert {row["note"] for row in staged.staged()} == {None}
    assert staged.manifest().version == "1.1.0"


def test_a_required_field_that_staged_rows_lack_asks_for_a_new_reading(staged: World) -> None:
    """Rows cannot be given a value that they never had: nothing changes, and the error says what is missing."""
    note = Field(name="value_2", type="number", description="Another value.", required=True)
    wider = with_field("kind", staged.table, allowed=())
    stricter = replace(wider, contract=replace(wider.contract, fields=(*wider.contract.fields, note)))
    with warehouse(staged.settings) as connection:
        new = json.dumps(reading(sensor="n") | {"value_2": 1.0}, default=str).encode()
        connection.execute("update quarantine.rows set original = %s where source = %s and field = 'kind'", [new, staged.name])
    before = staged.manifest()

    with pytest.raises(SourceChanged, match="value_2"):
        replay(staged.settings, [stricter])

    assert staged.manifest() == before


def test_rows_of_a_partition_that_was_never_staged_wait(world: World) -> None:
    """There is nothing to join, and so nothing is staged: reading the partition is what helps."""
    world.fill([])
    world.run("insert into {table} (sensor) values ('lost')")
    stage_days(world.settings, world.table, day(0), day(0), run_id="r")

    found = replay(world.settings, [world.table])

    assert found == [Replayed(source=world.name, partition="undated", replayed=0, still_broken=1)]
    assert staging.manifest_from(object_store(world.settings), world.settings.s3_bucket, world.name, "undated") is None
