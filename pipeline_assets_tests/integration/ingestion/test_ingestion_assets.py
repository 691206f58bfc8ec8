"""The assets of the three rooms of ingestion, materialized as Dagster would."""

import os
import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from pipeline_assets.core.connections import catalog
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.batch import assets as batch
from pipeline_assets.ingestion.sources import assets as sources
from pipeline_assets.ingestion.streaming import assets as streaming
from pipeline_assets.ingestion.streaming.capture.topics import Topic, ensure_topics
from pipeline_assets.spec.sources import EventStream, History, Source
from pipeline_assets.use_cases.nyc_flights import use_case as flights
from pipeline_assets_tests.landings import Landed, event, land, records
from pipeline_assets_tests.readings import World, reading, with_share
from pipeline_assets_tests.stream_records import without_sensors

RANGE = {"dagster/asset_partition_range_start": "2013-05-01", "dagster/asset_partition_range_end": "2013-05-03"}


def project_of(*declared: Source, streams: tuple[EventStream, ...] = ()) -> Project:
    """The flights with other sources, as the only use case."""
    own = replace(flights, first_day=date(2013, 5, 1), last_day=date(2013, 5, 31), sources=declared, streams=streams)
    return Project(use_cases=(own,))


def definitions(project: Project, home: Path) -> dg.Definitions:
    """The three rooms on the services of a folder."""
    rooms = (sources.defs(project), without_sensors(batch.defs(project)), without_sensors(streaming.defs(project)))
    return dg.Definitions.merge(*rooms, dg.Definitions(resources={"platform": Platform(home=str(home))}))


def run(defs: dg.Definitions, tags: dict[str, str], rooms: tuple[str, ...] = ("typed", "staged")) -> dg.ExecuteInProcessResult:
    """A run of all that is typed and staged, or of one of both."""
    chosen = [spec.key for spec in defs.resolve_all_asset_specs() if spec.key.path[0] in rooms]
    with dg.instance_for_test() as instance:
        job = defs.resolve_implicit_global_asset_job_def()
        return job.execute_in_process(instance=instance, tags=tags, asset_selection=chosen, raise_on_error=False)


def test_every_source_is_an_asset_with_its_contract(world: World) -> None:
    """The graph begins with the outside tables and endpoints: owner, kind, columns and the contract in the terms of its standard."""
    specs = {
        spec.key.to_user_string(): spec
        for spec in definitions(Project(use_cases=(flights,)), world.settings.home).resolve_all_asset_specs()
    }
    spec = specs["weather/observations"]

    assert (spec.group_name, spec.kinds, list(spec.owners)) == ("sources", {"rest"}, ["meteorology@nyc-flights.example"])
    assert spec.metadata["contract"].value["schema"][0]["properties"][0] == {
        "name": "origin",
        "logicalType": "string",
        "description": "FAA code of the airport of departure.",
        "required": True,
        "primaryKey": True,
        "primaryKeyPosition": 1,
        "quality": [{"rule": "validValues", "validValues": ["EWR", "JFK", "LGA"]}],
    }
    assert {dep.asset_key.to_user_string() for dep in specs["staged/flight_arrivals"].deps} == {
        "staged/flight_history",
        "typed/flight_arrivals",
    }
    assert [dep.asset_key.to_user_string() for dep in specs["typed/flight_arrivals"].deps] == ["landed/flight_arrivals"]
    assert [dep.asset_key.to_user_string() for dep in specs["staged/planes"].deps] == ["typed/planes_changes"]


@pytest.fixture
def stream(world: World) -> EventStream:
    """The readings from indoors."""
    contract = replace(world.contract, name=f"{world.name}_indoors")
    return EventStream(contract=contract, topic="indoors", history=History(source=world.table, field="kind", value="indoor"))


def test_a_range_of_days_is_staged_in_one_run_with_numbers_for_each_day(world: World, stream: EventStream) -> None:
    """Each partition is materialized with its own rows, the run with the sum; broken rows are a warning, as is a day without rows."""
    world.fill([reading(0, sensor="a"), reading(0, sensor="b", level=99), reading(1, kind="outdoor")])

    result = run(definitions(project_of(world.table, streams=(stream,)), world.settings.home), RANGE)

    numbers = {
        (event.materialization.asset_key.path[1], event.materialization.partition): [
            event.materialization.metadata["dagster/partition_row_count"].value,
            *([sums.value["rows"]] if isinstance(sums := event.materialization.metadata.get("run"), dg.JsonMetadataValue) else []),
        ]
        for event in result.get_asset_materialization_events()
        if event.materialization.asset_key.path[0] == "staged"
    }
    checks = {
        (check.asset_key.path[1], check.check_name): (check.passed, check.severity)
        for check in result.get_asset_check_evaluations()
        if check.asset_key.path[0] == "staged"
    }
    warning = dg.AssetCheckSeverity.WARN
    assert result.success
    assert numbers == {
        (world.name, "2013-05-01"): [1],
        (world.name, "2013-05-02"): [1],
        (world.name, "2013-05-03"): [0, 2],
        (stream.contract.name, "2013-05-01"): [1],
        (stream.contract.name, "2013-05-02"): [0],
        (stream.contract.name, "2013-05-03"): [0, 1],
    }
    assert checks == {
        (world.name, "contract"): (True, warning),
        (stream.contract.name, "contract"): (True, warning),
        (stream.contract.name, "complete"): (False, warning),
    }


def test_a_refused_partition_is_a_failed_check_and_stops_what_comes_after(world: World, stream: EventStream) -> None:
    """Above the share the check fails as an error with its reasons, the run fails without a retry, and the stream is not staged."""
    world.fill([reading(), reading(sensor="b", level=99)])

    result = run(definitions(project_of(with_share(0.0, world.table), streams=(stream,)), world.settings.home), RANGE)

    (check,) = [check for check in result.get_asset_check_evaluations() if check.asset_key.path[0] == "staged"]
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert not result.success
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert check.metadata["broken_by_reason"].value == {"level out of range": 1}
    assert f"Contract '{world.name}' refused partition 2013-05-01" in str(failure.step_failure_data.error)
    assert [event for event in result.get_asset_materialization_events() if event.asset_key and event.asset_key.path[0] == "staged"] == []
    assert "2013-05-01" not in world.manifests()


def checks_of(result: dg.ExecuteInProcessResult, stream: EventStream) -> dict[str, tuple[bool, dg.AssetCheckSeverity]]:
    """The checks of a stream's typed rows."""
    found = [check for check in result.get_asset_check_evaluations() if check.asset_key.path == ["typed", stream.contract.name]]
    return {check.check_name: (check.passed, check.severity) for check in found}


def test_landed_records_are_typed_and_staged_in_one_run(world: World, stream: EventStream) -> None:
    """The metadata of the typed rows has counts and the days that they touch, and these days hold them beside the history."""
    own = replace(stream, topic=stream.contract.name)
    world.fill([reading(0, sensor="a")])
    sensors = ["s0", "s0", "a", "s3"]
    payloads = [*(event(number, sensor=sensor) for number, sensor in enumerate(sensors)), b"{"]
    with catalog(world.settings) as lake:
        land(lake, [Landed(offset=number, payload=payload, topic=own.topic) for number, payload in enumerate(payloads)], own.topic)

    result = run(definitions(project_of(world.table, streams=(own,)), world.settings.home), RANGE)

    (typed,) = [event for event in result.get_asset_materialization_events() if event.materialization.asset_key.path[0] == "typed"]
    metadata: dict[str, Any] = {label: one.value for label, one in typed.materialization.metadata.items()}
    assert result.success
    assert (metadata["rows"], metadata["dagster/row_count"], metadata["repeats"]) == (4, 4, 0)
    assert (metadata["broken_by_reason"], metadata["days_touched"]) == ({"not a JSON object": 1}, ["2013-05-01"])
    assert metadata["offsets"].records[0].data == {"partition": 0, "before": 0, "next": 5}
    assert int(metadata["snapshot_id"]) > 0
    assert checks_of(result, own) == {
        "contract": (True, dg.AssetCheckSeverity.WARN),
        "offsets_complete": (True, dg.AssetCheckSeverity.ERROR),
    }
    # Of the key that the topic repeats the last stays; the one that the history has too is as the topic has it.
    staged = World(settings=world.settings, name=own.contract.name).staged()
    assert sorted((row["sensor"], row["value"]) for row in staged) == [("a", 2.0), ("s0", 1.0), ("s3", 3.0)]


def test_a_gap_in_the_offsets_is_a_failed_check_and_stops_what_comes_after(streams: Settings, world: World, stream: EventStream) -> None:
    """The check names partition and offsets, and the days of the stream are not staged, but by a run that leaves the stream out."""
    own = replace(stream, topic=stream.contract.name)
    world.fill([reading(0, sensor="a")])
    with catalog(world.settings) as lake:
        land(lake, [replace(one, topic=own.topic) for one in records(3, 5)], own.topic)
    ensure_topics(streams, [Topic(name=own.topic, partitions=1)])

    graph = definitions(project_of(world.table, streams=(own,)), world.settings.home)
    result = run(graph, RANGE)
    keys = World(settings=world.settings, name=own.contract.name).keys()

    (check,) = [check for check in result.get_asset_check_evaluations() if check.check_name == "offsets_complete"]
    assert not result.success
    assert (check.passed, {name: one.value for name, one in check.metadata.items()}) == (False, {"partition": 0, "first": 0, "last": 2})
    assert keys == []
    assert run(graph, RANGE, ("staged",)).success
    assert World(settings=world.settings, name=own.contract.name).keys() != []


GRAPH = """
from dataclasses import replace
import dagster as dg
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform
from pipeline_assets.core.settings import load_settings
from pipeline_assets.ingestion.batch import assets
from pipeline_assets.use_cases.nyc_flights import use_case
from pipeline_assets_tests.landings import Landed, event, land, records
from pipeline_assets_tests.readings import World
from pipeline_assets_tests.stream_records import without_sensors

@dg.asset(key=["champions", "comfort"], deps=[["staged", {name!r}]], group_name="registry")
def champion() -> None: ...

readings = World(settings=load_settings(), name={name!r}).table
defs = dg.Definitions.merge(
    without_sensors(assets.defs(Project(use_cases=(replace(use_case, sources=(readings,), streams=()),)))),
    dg.Definitions(assets=[champion], resources={{"platform": Platform()}}),
)
"""


def test_a_source_that_changed_names_its_dependents(world: World, tmp_path: Path) -> None:
    """The failure names the fields, and the features and models that would miss them."""
    world.fill([], ddl="create table {table} (sensor text)")
    graph = tmp_path / "graph.py"
    graph.write_text(GRAPH.format(name=world.name))
    command = ["dagster", "asset", "materialize", "-f", str(graph), "--select", f"staged/{world.name}", "--partition", "2013-05-01"]
    environment = os.environ | {"PIPELINE_HOME": str(world.settings.home), "DAGSTER_HOME": str(tmp_path)}

    ended = subprocess.run([sys.executable, "-m", *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert ended.returncode == 1
    assert "field 'level' (integer) has no column" in ended.stderr
    assert "Dependents: champions/comfort." in ended.stderr


STREAM_GRAPH = """
from dataclasses import replace
import dagster as dg
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform
from pipeline_assets.ingestion.streaming import assets
from pipeline_assets.use_cases.nyc_flights import use_case
from pipeline_assets_tests.landings import stream_of
from pipeline_assets_tests.stream_records import without_sensors

@dg.asset(key=["features", "comfort"], deps=[["staged", {name!r}]], group_name="features")
def comfort() -> None: ...

defs = dg.Definitions.merge(
    without_sensors(assets.defs(Project(use_cases=(replace(use_case, sources=(), streams=(stream_of({name!r}, {name!r}),)),)))),
    dg.Definitions(assets=[comfort], resources={{"platform": Platform()}}),
)
"""


def test_a_stream_that_changed_names_its_dependents(world: World, tmp_path: Path) -> None:
    """The typed rows are not written; the failure names the field, what was expected and found, and the features below."""
    renamed = event(0).replace(b'"sensor"', b'"device"')
    with catalog(world.settings) as lake:
        land(lake, [Landed(offset=number, payload=renamed, topic=world.name) for number in range(12)], world.name)
    graph = tmp_path / "graph.py"
    graph.write_text(STREAM_GRAPH.format(name=world.name))
    command = ["dagster", "asset", "materialize", "-f", str(graph), "--select", f"typed/{world.name}"]
    environment = os.environ | {"PIPELINE_HOME": str(world.settings.home), "DAGSTER_HOME": str(tmp_path)}

    ended = subprocess.run([sys.executable, "-m", *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert ended.returncode == 1
    assert f"field 'sensor' is missing in the newest 12 records of the topic '{world.name}', expected string" in ended.stderr
    assert "Nothing was written. Dependents: features/comfort." in ended.stderr


def test_a_table_is_loaded_incrementally_and_its_deletions_are_found_where_a_run_asks(world: World) -> None:
    """The asset has no days; its configuration asks for deletions, and each run adds to what the run before staged."""
    world.fill([reading(sensor="a"), reading(sensor="b")])
    defs = definitions(project_of(replace(world.table, load="incremental")), world.settings.home)
    asset, staged = dg.AssetKey(["staged", world.name]), []

    for statement, asked in (("select 1", False), ("delete from {table} where sensor = 'a'", False), ("select 1", True)):
        world.run(statement)
        with dg.instance_for_test() as instance:
            result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
                instance=instance,
                asset_selection=[asset],
                run_config={"ops": {asset.to_python_identifier(): {"config": {"find_deletes": asked}}}},
            )
        assert result.success
        staged.append([row["sensor"] for row in world.staged("snapshot")])

    assert staged == [["a", "b"], ["a", "b"], ["b"]]
