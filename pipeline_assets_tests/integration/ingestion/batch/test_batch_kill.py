"""Staging a table that is killed in the middle, and run again."""

from collections.abc import Iterable

import pytest

from pipeline_assets.core.connections import warehouse
from pipeline_assets.ingestion.batch.load import stage_days
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.ingestion.sources.contracts import Checked
from pipeline_assets.ingestion.sources.json_rows import check_json_rows
from pipeline_assets.ingestion.sources.originals import json_bytes
from pipeline_assets.ingestion.staging.stage import stage_partition, target_of
from pipeline_assets_tests.readings import World, day, kill, parts_of_a_day, process, reading, wait_until

LOAD = """
from datetime import date
from pipeline_assets.ingestion.batch.load import stage_days
from pipeline_assets_tests.readings import World
stage_days(settings, World(settings=settings, name={name!r}).table, date(2013, 5, 1), date(2013, 5, 10), run_id="killed")
"""
HALF_A_DAY = """
from dataclasses import replace
from pipeline_assets.core.connections import warehouse
from pipeline_assets.ingestion.staging.stage import stage_partition, target_of
from pipeline_assets_tests.readings import World, parts_of_a_day
world = World(settings=settings, name={name!r})
target = replace(target_of(settings, world.contract, run_id="killed"), file_bytes=1)
def parts():
    for part in parts_of_a_day(world.contract):
        yield part
        with warehouse(settings) as holder:
            holder.execute("select pg_advisory_lock(%s)", [{lock}])
with warehouse(settings) as connection:
    stage_partition(connection, target, "2013-05-01", parts())
"""
LOCK = 2013


@pytest.fixture
def unkilled(world: World) -> World:
    """A world beside the first, with the same rows."""
    return World(settings=world.settings, name=f"{world.name}_2")


def test_a_range_that_was_killed_between_days_ends_as_if_it_never_was(world: World, unkilled: World) -> None:
    """Some days are staged, one waits for its lock, the process is killed: running again gives the rows of an undisturbed run."""
    rows = [reading(offset, sensor=f"s{number}", level=4 * number) for offset in range(10) for number in range(4)]
    for each in (world, unkilled):
        each.fill(rows)
    quarantine.create(world.settings)

    with (
        warehouse(world.settings) as holder,
        quarantine.locked(holder, world.name, "2013-05-06"),
        process(world.settings, LOAD.format(name=world.name)) as started,
    ):
        wait_until(lambda: len(world.manifests()) >= 5, "five days are staged")
        wait_until(world.is_waiting_for_lock, "the sixth waits for its lock")
        kill(started)
    done = world.manifests()
    for each in (world, unkilled):
        stage_days(world.settings, each.table, day(0), day(9), run_id="again")

    assert "2013-05-06" not in done
    assert world.content(0, 9) == unkilled.content(0, 9)
    assert [len(world.staged(day(offset).isoformat())) for offset in range(10)] == [3] * 10


def test_a_day_that_was_killed_between_its_files_ends_as_if_it_never_was(world: World, unkilled: World) -> None:
    """Files without a manifest and half a quarantine are not seen, and the day holds every row once when it is staged again."""
    first = check_json_rows(world.contract, [json_bytes(reading(sensor="old"))])
    stage_parts(world, [first])
    before, files_before = world.content(0, 0), len(world.keys())

    with warehouse(world.settings) as holder:
        holder.execute("select pg_advisory_lock(%s)", [LOCK])
        with process(world.settings, HALF_A_DAY.format(name=world.name, lock=LOCK)) as started:
            wait_until(lambda: len(world.keys()) > files_before, "a file of the day is there")
            wait_until(world.is_waiting_for_lock, "the rest of the day waits")
            kill(started)
    seen = world.content(0, 0)
    for each in (world, unkilled):
        stage_parts(each, parts_of_a_day(each.contract))

    assert seen == before
    assert world.content(0, 0) == unkilled.content(0, 0)
    assert (world.manifest().rows, world.manifest().broken) == (200, 100)


def stage_parts(world: World, parts: Iterable[Checked]) -> None:
    """Stages a day from parts that are checked already."""
    quarantine.create(world.settings)
    with warehouse(world.settings) as connection:
        stage_partition(connection, target_of(world.settings, world.contract, run_id="again"), "2013-05-01", parts)
