"""The commands of the quarantine, as a person types them."""

import json
import os
import subprocess
import sys

import pytest

from pipeline_assets.core.connections import warehouse
from pipeline_assets.core.settings import PREFIX, Settings
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.ingestion.sources.contracts import BrokenRow
from pipeline_assets.ingestion.sources.json_rows import check_json_rows
from pipeline_assets.ingestion.staging.partitions import read_manifest
from pipeline_assets.ingestion.staging.stage import stage_partition, target_of
from pipeline_assets.use_cases.nyc_flights.sources import weather
from pipeline_assets_tests.readings import with_field

DAY = "2013-12-30"
MILD = {"origin": "EWR", "observed_at": f"{DAY}T05:00:00Z", "temperature_f": 50.0, "published_at": f"{DAY}T05:10:00Z"}
WARM = json.dumps(MILD | {"origin": "JFK", "temperature_f": 80.0}).encode()
HOT = json.dumps(MILD | {"origin": "LGA", "temperature_f": 180.0}).encode()


@pytest.fixture
def settings(stores: Settings) -> Settings:
    """Settings of a stack where a day of weather was staged under a contract that knew no warm days."""
    strict = with_field("temperature_f", weather, maximum=60.0).contract
    quarantine.create(stores)
    with warehouse(stores) as connection:
        connection.execute("delete from quarantine.rows where source = 'weather'")
    rows = [json.dumps(MILD | {"observed_at": f"{DAY}T{hour:02}:00:00Z", "published_at": f"{DAY}T{hour:02}:10:00Z"}) for hour in range(20)]
    checked = check_json_rows(strict, [*(row.encode() for row in rows), WARM, HOT])
    with warehouse(stores) as connection:
        stage_partition(connection, target_of(stores, strict, run_id="strict"), DAY, [checked])
    return stores


def pipeline(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The `pipeline` command, run to its end."""
    code = "import sys; from pipeline_assets.cli import main; sys.argv[0] = 'pipeline'; main()"
    environment = os.environ | {f"{PREFIX}HOME": str(settings.home), "COLUMNS": "200"}
    return subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False)


def test_rows_are_listed_shown_and_replayed(settings: Settings) -> None:
    """What is listed has an id, what is shown its bytes, and what is replayed is said with the command that publishes it."""
    listed = pipeline(settings, "quarantine", "list", "--source", "weather", "--partition", DAY, "--json")
    first, second = json.loads(listed.stdout)
    table = pipeline(settings, "quarantine", "list", "--source", "weather")
    shown = pipeline(settings, "quarantine", "show", str(first["id"]))
    replayed = pipeline(settings, "quarantine", "replay", "--source", "weather", "--partition", DAY)
    again = pipeline(settings, "quarantine", "replay", "--source", "weather", "--json")
    manifest = read_manifest(settings, "weather", DAY)

    assert (first["original"], first["field"], first["reason"]) == (WARM.decode(), "temperature_f", "out of range")
    assert (second["original"], second["position"], second["run_id"]) == (HOT.decode(), 21, "strict")
    assert "2 of 2 rows" in table.stdout
    assert WARM.decode() in shown.stdout
    assert "weather: 1 rows staged, 1 still broken" in replayed.stdout
    assert f"--partition-range {DAY}...{DAY}" in replayed.stdout
    assert json.loads(again.stdout) == [{"source": "weather", "partition": DAY, "replayed": 0, "still_broken": 1}]
    assert manifest is not None
    assert (manifest.rows, manifest.replayed) == (21, 1)


def test_a_hostile_row_steers_no_terminal(settings: Settings) -> None:
    """Of a megabyte its beginning is shown, escaped; its place is no markup; all of it is in the JSON, which is ASCII."""
    hostile = b"\x1b[2J\x00\rweather: all rows are fine\n\xe2\x80\xae" + b"x" * 1_000_000
    row = BrokenRow(position=3, field="temperature_f", reason="out of range", original=hostile, place="[/red]\x1b[2J.csv:1")
    quarantine.replace(settings, "weather", DAY, [row], run_id="staged")
    (kept,) = quarantine.listed(settings, source="weather")
    shown = pipeline(settings, "quarantine", "show", str(kept.id))
    listed = pipeline(settings, "quarantine", "list", "--source", "weather")
    as_json = pipeline(settings, "quarantine", "show", str(kept.id), "--json")

    assert len(shown.stdout) < 5_000
    assert "\\x1b[2J\\x00\\rweather: all rows are fine\\n\\u202e" in shown.stdout
    assert "[/red]\\x1b[2J.csv:1" in listed.stdout
    assert all(line.isprintable() for line in (shown.stdout + listed.stdout).split("\n"))
    assert json.loads(as_json.stdout)["original"].endswith("x" * 1_000_000)
    assert as_json.stdout.isascii()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("list", "--source", "wether"), "Unknown source 'wether'. Known: airlines, "),
        (("list", "--partition", "2013-02-30"), "No day '2013-02-30'."),
        (("replay", "--partition", "2012-12-31"), "No day '2012-12-31'."),
        (("show", "0"), "No quarantined row has the id 0."),
        (("show", "first"), "Invalid value for"),
    ],
)
def test_what_is_not_there_is_said_in_a_sentence(settings: Settings, arguments: tuple[str, ...], expected: str) -> None:
    """A source, a day or a row that there is not ends the command with exit code 2 and no trace."""
    ended = pipeline(settings, "quarantine", *arguments)

    assert ended.returncode == 2
    assert expected in ended.stderr
    assert "Traceback" not in ended.stderr


def test_what_is_in_quarantine_of_a_followed_table_is_merged_again(settings: Settings) -> None:
    """Its rows come of its log alone: none is staged beside it; the command that merges it is printed, and its log can be asked for."""
    row = BrokenRow(position=3, field="engines", reason="out of range", original=b'{"tailnum": "N1", "engines": 2}')
    quarantine.replace(settings, "planes", "snapshot", [row], run_id="staged")
    replayed = pipeline(settings, "quarantine", "replay", "--source", "planes")
    log = pipeline(settings, "quarantine", "list", "--source", "planes_changes")
    (left,) = quarantine.listed(settings, source="planes")
    quarantine.replace(settings, "planes", "snapshot", [], run_id="staged")

    assert "planes is merged again from its changes" in replayed.stdout
    assert "--select 'key:\"staged/planes\"'" in replayed.stdout
    assert left.replayed_at is None
    assert log.stdout == "No rows are in quarantine.\n"
