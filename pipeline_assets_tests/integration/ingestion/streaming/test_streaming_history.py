"""The history of a stream: which rows become its events, and how a stream does without one."""

from dataclasses import replace

import pytest

from pipeline_assets.core.connections import catalog
from pipeline_assets.core.errors import ContractViolation, NotStaged
from pipeline_assets.ingestion.batch.load import stage_days
from pipeline_assets.ingestion.streaming.staged.events import stage_events
from pipeline_assets.ingestion.streaming.typed.rows import type_landed
from pipeline_assets.spec.contracts import Contract
from pipeline_assets.spec.sources import EventStream, History
from pipeline_assets_tests.landings import Landed, event, land
from pipeline_assets_tests.readings import World, day, reading


@pytest.fixture
def indoors(world: World) -> EventStream:
    """A stream of the readings from indoors, whose contract knows neither their kind nor whether they are valid."""
    fields = tuple(field for field in world.contract.fields if field.name not in {"kind", "is_valid"})
    contract: Contract = replace(world.contract, name=f"{world.name}_indoors", fields=fields)
    return EventStream(contract=contract, topic="indoors", history=History(source=world.table, field="kind", value="indoor"))


def events(world: World) -> World:
    """The stream's side of a world."""
    return World(settings=world.settings, name=f"{world.name}_indoors")


def test_rows_of_its_kind_become_the_streams_events(world: World, indoors: EventStream) -> None:
    """Other kinds, and rows without one, stay out; fields that the stream's contract does not have are left out."""
    world.fill([reading(sensor="a"), reading(sensor="b", kind="outdoor"), reading(sensor="c", kind=None), reading(1, sensor="d")])
    stage_days(world.settings, world.table, day(0), day(2), run_id="r")

    staged = stage_events(world.settings, indoors, day(0), day(2), run_id="r")

    wanted = {name: value for name, value in reading(sensor="a").items() if name not in {"kind", "is_valid"}}
    assert [one.manifest.rows for one in staged.days] == [1, 1, 0]
    assert events(world).staged() == [wanted]


def test_without_a_field_all_rows_of_the_history_become_events(world: World, indoors: EventStream) -> None:
    """Whatever their kind, and without one."""
    world.fill([reading(sensor="a"), reading(sensor="b", kind="outdoor"), reading(sensor="c", kind=None)])
    stage_days(world.settings, world.table, day(0), day(0), run_id="r")

    stage_events(world.settings, replace(indoors, history=History(source=world.table)), day(0), day(0), run_id="r")

    assert sorted(row["sensor"] for row in events(world).staged()) == ["a", "b", "c"]


def test_a_stream_without_history_has_the_events_of_its_topic_alone(world: World, indoors: EventStream) -> None:
    """No partition of a history is needed; each day has what was typed of it, and a day without events is staged as empty."""
    alone = replace(indoors, topic=indoors.contract.name, history=None)
    with catalog(world.settings) as lake:
        land(lake, [Landed(offset=0, payload=event(0, sensor="t"), topic=alone.topic)], alone.topic)
    type_landed(world.settings, alone, run_id="r")

    staged = stage_events(world.settings, alone, day(0), day(1), run_id="r")

    assert [one.manifest.rows for one in staged.days] == [1, 0]
    assert [row["sensor"] for row in events(world).staged()] == ["t"]


def test_events_are_held_against_the_streams_own_contract(world: World, indoors: EventStream) -> None:
    """A row may be good enough for the history and not for the stream; then it is quarantined under the stream's name."""
    fields = tuple(replace(field, maximum=5) if field.name == "level" else field for field in indoors.contract.fields)
    strict = replace(indoors, contract=replace(indoors.contract, fields=fields))
    world.fill([reading(sensor="a"), reading(sensor="b", level=9), reading(1, level=9)])
    stage_days(world.settings, world.table, day(0), day(1), run_id="r")

    stage_events(world.settings, strict, day(0), day(0), run_id="r")

    assert events(world).quarantined() == [("2013-05-01", 1, "level out of range", False)]
    with pytest.raises(ContractViolation):
        stage_events(world.settings, strict, day(1), day(1), run_id="r")


def test_a_history_that_was_never_staged_is_not_a_history_without_events(world: World, indoors: EventStream) -> None:
    """The days that are missing are named, and nothing is staged in their place."""
    world.fill([reading()])
    stage_days(world.settings, world.table, day(0), day(0), run_id="r")

    with pytest.raises(NotStaged) as caught:
        stage_events(world.settings, indoors, day(0), day(2), run_id="r")

    assert caught.value.partitions == ("2013-05-02", "2013-05-03")
    assert events(world).keys() == []
