"""The offline feature store on real services: vectors by day, and the features of any spine as of its times."""

import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline_assets.core import names
from pipeline_assets.core.damage import ObjectDamaged
from pipeline_assets.core.declarations import load_project
from pipeline_assets.core.errors import FeaturesMissing, NotMaterialized
from pipeline_assets.core.names import PARTITION_ROWS
from pipeline_assets.core.resources import Platform
from pipeline_assets.core.settings import PREFIX, Settings
from pipeline_assets.model_lifecycle.feature_store import assets, offline, old_days
from pipeline_assets.model_lifecycle.feature_store.fingerprint import FEATURE_HASH, feature_hashes
from pipeline_assets.model_lifecycle.feature_store.parity import check_days, differs
from pipeline_assets.processing.lake import scans, tables
from pipeline_assets.processing.lake.recent import Recent
from pipeline_assets.use_cases.nyc_flights.models import flight_delay
from pipeline_assets_tests.flipped_bits import damage_two_days
from pipeline_assets_tests.january import (
    FIRST,
    LAST,
    MODEL,
    NAMES,
    PROJECT,
    UNTIL,
    VIEWS,
    cleaned_tables,
    observations,
    store,
    store_features,
)
from pipeline_assets_tests.oracles import oracle_features
from pipeline_assets_tests.stack_env import write_stack_env


@pytest.fixture
def warehouse(isolated: Settings) -> Settings:
    """A stack whose warehouse holds the cleaned tables of January."""
    store(isolated, cleaned_tables())
    return isolated


def historical(settings: Settings, spine: pa.Table) -> pa.Table:
    """The spine with the features of the model."""
    return offline.historical_features(settings, PROJECT, MODEL.name, spine)


def kept(settings: Settings) -> pa.Table:
    """The vectors of the days."""
    return offline.vectors(settings, MODEL, FIRST, LAST)


def test_vectors_are_the_observations_with_their_features(warehouse: Settings) -> None:
    """One row per flight, in order; every feature is, bit for bit, that of a spine of the flights; and so says the parity check."""
    store_features(warehouse)
    done = offline.materialize_vectors(warehouse, MODEL, FIRST, LAST)
    vectors, asked = kept(warehouse), observations()
    alone = historical(warehouse, asked.to_arrow())
    (parity,) = check_days(warehouse, PROJECT, MODEL, [FIRST])

    assert (done.observations, done.published.rows, done.outside) == (asked.height, asked.height, 0)
    assert vectors["flight_id"].to_pylist() == asked["flight_id"].to_list()
    assert [name for name in offline.feature_names(MODEL) if differs(vectors[name], alone[name]).any()] == []
    assert vectors[FEATURE_HASH].to_pylist() == feature_hashes(alone, offline.feature_names(MODEL)).to_pylist()
    assert (parity.rows, dict(parity.differing)) == (200, {})
    assert asked["tailnum"].null_count() > 0
    assert done.snapshots == {".".join(table): tables.snapshot_id(warehouse, table) for table in offline.tables_read(MODEL)}


def test_vectors_again_and_day_by_day_are_the_same(warehouse: Settings) -> None:
    """Days in any order equal a range in one go, a second run changes no file, and an old snapshot can still be read."""
    store_features(warehouse)
    for day in (LAST, FIRST):
        offline.materialize_vectors(warehouse, MODEL, day, day)
    before = kept(warehouse)
    again = offline.materialize_vectors(warehouse, MODEL, FIRST, LAST)
    store(warehouse, {"flights_history": observations().head(10)})
    fewer = offline.materialize_vectors(warehouse, MODEL, FIRST, LAST)

    assert again.published.changed == 0
    assert fewer.published.rows == kept(warehouse).num_rows == 10
    assert offline.vectors(warehouse, MODEL, FIRST, LAST, snapshot_id=again.published.snapshot_after).equals(before)


def test_vectors_of_days_that_nothing_has_changed_for_are_not_made_again(warehouse: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a range only the days are made whose observations or features have changed; the others stay, and are counted."""
    store_features(warehouse)
    first = offline.materialize_vectors(warehouse, MODEL, FIRST, LAST)
    build, made = offline.build_vectors, list[int]()

    def noted(*given: Any) -> pa.Table:
        made.append(given[1].num_rows)
        return build(*given)

    monkeypatch.setattr(offline, "build_vectors", noted)
    again = offline.materialize_vectors(warehouse, MODEL, FIRST, LAST)
    # They leave on the day after the last, so they are in its file, and are decided on the last.
    is_left = pl.col("scheduled_departure_at") < datetime(LAST.year, LAST.month, LAST.day, tzinfo=UTC) + timedelta(days=1)
    store(warehouse, {"flights_history": cleaned_tables()["flights_history"].filter(is_left)})
    store_features(warehouse)
    last = offline.materialize_vectors(warehouse, MODEL, FIRST, LAST)
    of_last_day = observations().filter((pl.col("decision_at").dt.date() == LAST) & is_left).height

    assert (again.observations, again.outside) == (first.observations, first.outside)
    assert again.published == replace(first.published, snapshot_before=first.published.snapshot_after, changed=0)
    assert made == [of_last_day]
    assert last.published.rows == last.observations == kept(warehouse).num_rows == observations().filter(is_left).height
    assert last.observations < first.observations


def test_vectors_of_days_whose_files_are_damaged_are_made_again(warehouse: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: a vectors file with a wrong bit was read as wrong values, and its day was skipped as unchanged."""
    monkeypatch.setattr(scans, "RECENT", Recent(0))
    store_features(warehouse)
    offline.materialize_vectors(warehouse, MODEL, FIRST, LAST)
    before = kept(warehouse)
    damage_two_days(warehouse, names.vectors(MODEL.name))
    with pytest.raises(ObjectDamaged, match=rf"Materialize feature_store/{MODEL.name} of {FIRST} again"):
        kept(warehouse)
    healed = offline.materialize_vectors(warehouse, MODEL, FIRST, LAST)

    assert healed.published.changed == 2
    assert kept(warehouse).equals(before)


def test_a_day_without_features_is_an_error_and_changes_nothing(warehouse: Settings) -> None:
    """A view that was not materialized is named, whether its table lacks the day or is not there at all."""
    with pytest.raises(NotMaterialized, match="features/origin_departures"):
        offline.materialize_vectors(warehouse, MODEL, FIRST, LAST)
    store_features(warehouse, FIRST, FIRST)
    with pytest.raises(FeaturesMissing, match=r"features\.origin_departures' has no row for"):
        offline.materialize_vectors(warehouse, MODEL, FIRST, LAST)

    assert tables.snapshot_id(warehouse, names.vectors(MODEL.name)) is None


def vectors_asset() -> dg.AssetsDefinition:
    """The asset of the vectors."""
    known = assets.defs(PROJECT).assets or ()
    (found,) = [one for one in known if isinstance(one, dg.AssetsDefinition) and one.key == dg.AssetKey([*names.vectors(MODEL.name)])]
    return found


def test_a_decision_outside_of_the_declared_range_is_a_warning(warehouse: Settings, tmp_path: Path) -> None:
    """A decision a day after its event, where none after it is declared: the vectors are made, and the check says how many there are."""
    write_stack_env(warehouse, tmp_path)
    late = pl.col("decision_at") + pl.when(pl.int_range(pl.len()) < 3).then(timedelta(hours=25)).otherwise(timedelta(0))
    store(warehouse, {"flights_history": observations().with_columns(decision_at=late)})
    store_features(warehouse)
    asset = vectors_asset()
    with dg.DagsterInstance.ephemeral() as instance:
        tags = {"dagster/asset_partition_range_start": str(FIRST), "dagster/asset_partition_range_end": str(LAST)}
        result = dg.materialize([asset], resources={"platform": Platform(home=str(tmp_path))}, instance=instance, tags=tags)
    (check,) = [check for check in result.get_asset_check_evaluations() if check.check_name == assets.IN_RANGE]

    assert result.success
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.metadata["outside"].value == 3


def test_parity_names_the_feature_that_differs(warehouse: Settings) -> None:
    """Vectors made of a feature table that somebody changed are named by column; vectors of other decisions are counted."""
    store_features(warehouse, FIRST, FIRST)
    feature, table = "origin_weather__temperature_f", names.features("origin_weather")
    rows = pl.DataFrame(tables.read_all(warehouse, table).read_all()).with_columns(pl.col(feature) + 1)
    tables.replace_days(warehouse, table, rows.to_arrow(), "decision_at", FIRST, FIRST)
    offline.materialize_vectors(warehouse, MODEL, FIRST, FIRST)
    (parity,) = check_days(warehouse, PROJECT, MODEL, [FIRST])
    store(warehouse, {"flights_history": observations().tail(-3)})

    (others,) = check_days(warehouse, PROJECT, MODEL, [FIRST])

    assert (parity.differing, parity.gained, parity.lost) == ({feature: parity.rows, FEATURE_HASH: parity.rows}, 0, 0)
    assert (others.gained, others.lost) == (0, 3)


def test_a_late_version_makes_stale_exactly_the_days_whose_answers_it_changes(warehouse: Settings) -> None:
    """From when it was known on, not from when it happened: other days come out as they are, though they read the file that it is in.

    Made again, no day is stale. A day that is not what it was although nothing that it is made of has changed is an error.
    """
    first, last, known_at = date(2013, 1, 6), date(2013, 1, 10), datetime(2013, 1, 9, 12, tzinfo=UTC)
    store_features(warehouse, first, last)
    offline.materialize_vectors(warehouse, MODEL, first, last)
    before = offline.vectors(warehouse, MODEL, first, last)
    at_once = old_days.days_in_question(warehouse, MODEL, None, None)
    store(warehouse, {"departures_history": corrected(date(2013, 1, 8), known_at)})
    asked = old_days.days_in_question(warehouse, MODEL, None, None)
    stale = list(old_days.stale_days(warehouse, PROJECT, MODEL, asked))
    sampled = old_days.sample(warehouse, PROJECT, MODEL, (first, date(2013, 1, 8)), seed="1")
    store_features(warehouse, date(2013, 1, 9), last)
    offline.materialize_vectors(warehouse, MODEL, date(2013, 1, 9), last)
    left = old_days.days_in_question(warehouse, MODEL, None, None)
    after = offline.vectors(warehouse, MODEL, first, last)

    assert at_once == {}
    assert asked == {day: ["departures_history"] for day in (date(2013, 1, 8), date(2013, 1, 9), last)}
    assert [one.parity.day for one in stale] == [date(2013, 1, 9), last]
    assert all(name.partition("__")[0] in NAMES or name == FEATURE_HASH for one in stale for name in one.parity.differing)
    check = assets.judge_old_days(sampled)
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "2013-01-09 is stale, as something came late for it: departures_history" in str(check.description)
    assert list(old_days.stale_days(warehouse, PROJECT, MODEL, left)) == []
    known = pc.less(before["decision_at"], pa.scalar(known_at))
    assert after.filter(known).equals(before.filter(known))
    assert not after.equals(before)


def test_a_day_that_changed_by_itself_is_an_error(warehouse: Settings) -> None:
    """Vectors that somebody wrote over are found among the sampled days, and nothing that came late explains them."""
    store_features(warehouse)
    offline.materialize_vectors(warehouse, MODEL, FIRST, LAST)
    feature, table = "origin_weather__temperature_f", names.vectors(MODEL.name)
    made_from = tables.Inputs(digests={day: one.digest for day, one in tables.made_from(warehouse, table)[1].items()})
    rows = pl.DataFrame(offline.vectors(warehouse, MODEL, FIRST, FIRST)).with_columns(pl.col(feature) + 1)
    tables.replace_days(warehouse, table, rows.to_arrow(), "decision_at", FIRST, FIRST, inputs=made_from)
    found = old_days.sample(warehouse, PROJECT, MODEL, (LAST, LAST), seed="1")
    check = assets.judge_old_days(found)

    assert [(one.parity.day, one.is_unexplained) for one in found] == [(FIRST, True)]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)


def corrected(day: date, known_at: datetime) -> pl.DataFrame:
    """The departures, of which the last one from JFK on a day is known from `known_at` on to have been late, if it was not."""
    rows = cleaned_tables()["departures_history"].with_row_index("row")
    (row,) = rows.filter((pl.col("origin") == "JFK") & (pl.col("event_at").dt.date() == day)).tail(1)["row"]
    is_it = pl.col("row") == row
    ended = rows.with_columns(superseded_at=pl.when(is_it).then(pl.lit(known_at)).otherwise("superseded_at"))
    newer = rows.filter(is_it).with_columns(known_at=pl.lit(known_at), is_late=~pl.col("is_late"), version=pl.lit(2, pl.Int64))
    return pl.concat([ended, newer]).drop("row")


def test_features_of_a_spine_are_those_of_the_oracle(warehouse: Settings) -> None:
    """Brute force over every event gives the same numbers: windows, latest values, nothing that became known later."""
    times = [datetime(2013, 1, 8, tzinfo=UTC) + timedelta(minutes=211 * position) for position in range(12)]
    asked = observations().sample(12, seed=5).with_columns(decision_at=pl.Series(times))
    spine = asked.select("origin", "tailnum", pl.col("decision_at").dt.cast_time_unit("us")).to_arrow()
    found = historical(warehouse, spine).to_pydict()
    expected: dict[str, list[Any]] = {}
    for view in VIEWS:
        expected |= oracle_features(view, spine, cleaned_tables()[view.source.name].to_arrow())
    close = {name: [None if value is None else pytest.approx(value, rel=1e-12) for value in values] for name, values in expected.items()}

    assert {name: found[name] for name in close} == close


def test_rows_out_are_rows_in(warehouse: Settings) -> None:
    """Any order, repeats and further columns stay as they are; each row has the features that it has alone."""
    flights = observations()
    spine = flights.sample(400, with_replacement=True, seed=1).with_columns(note=pl.Series(range(400))).to_arrow()
    found = historical(warehouse, spine)
    alone = historical(warehouse, spine.slice(17, 1))

    assert found.num_rows == 400
    assert found.select(spine.column_names).equals(spine)
    assert found.column_names == [*spine.column_names, *offline.feature_names(MODEL)]
    assert found.slice(17, 1).to_pylist() == alone.to_pylist()


def test_what_a_spine_does_not_say_is_left_out_with_a_notice(warehouse: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """Keys and time suffice; request features without their column are absent, and a warning names them."""
    spine = observations().head(5).select("origin", "tailnum", "carrier", "dest", "decision_at").to_arrow()
    with caplog.at_level(logging.WARNING):
        found = historical(warehouse, spine)

    assert "request__hour" not in found.column_names
    assert {"request__origin", "request__carrier"} <= set(found.column_names)
    assert "feature 'hour' of the request, as the spine has no column 'scheduled_departure_at'" in caplog.text


def test_a_source_that_ends_too_early_is_reported(warehouse: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """Asked about a day whose events were never loaded, the answer comes with a warning that names the table and where it ends."""
    late = datetime.combine(UNTIL + timedelta(days=3), datetime.min.time(), UTC)
    historical(warehouse, pa.table({"origin": ["JFK"], "tailnum": ["N1"], "decision_at": [late]}))

    assert "cleaned.departures_history holds nothing after 2013-01-11" in caplog.text
    assert "cleaned.weather_observations_history holds nothing of the time that is looked back to" in caplog.text


def test_a_spine_before_anything_was_cleaned_names_the_missing_table(isolated: Settings) -> None:
    """Where the events were never brought in, the missing table is named."""
    with pytest.raises(NotMaterialized, match=r"'cleaned/departures_history' yet\. Materialize it first"):
        historical(isolated, observations().to_arrow())


def run(home: Path, *arguments: str, command: str = "historical") -> subprocess.CompletedProcess[str]:
    """A command of `pipeline features` in a process of its own."""
    line = [sys.executable, "-c", "from pipeline_assets.cli import main; main()", "features", command, *arguments]
    environment = {**os.environ, f"{PREFIX}HOME": str(home)}
    return subprocess.run(line, capture_output=True, text=True, check=False, env=environment)


def test_the_command_answers_a_file_with_a_file(warehouse: Settings, tmp_path: Path) -> None:
    """CSV in, Parquet out, all views of the use case: the numbers of the Python call, row by row."""
    write_stack_env(warehouse, tmp_path)
    spine = observations().head(50)
    spine.with_columns(pl.col("decision_at", "scheduled_departure_at").dt.to_string("iso:strict")).select(
        "flight_id", "origin", "carrier", "dest", "tailnum", "decision_at", "scheduled_departure_at", "distance_miles", "planned_minutes"
    ).write_csv(tmp_path / "spine.csv")
    done = run(tmp_path, "--model", MODEL.name, "--spine", str(tmp_path / "spine.csv"), "--out", str(tmp_path / "out.parquet"))
    expected = offline.historical_features(warehouse, load_project(), MODEL.name, spine.to_arrow())
    features = offline.feature_names(flight_delay)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("50 rows with 65 features: ")
    assert pq.read_table(tmp_path / "out.parquet").select(features).to_pylist() == expected.select(features).to_pylist()


def test_the_command_lists_stale_days(warehouse: Settings, tmp_path: Path) -> None:
    """Vectors of a model that has more features by now are stale as a whole; the command names the days and what to run."""
    write_stack_env(warehouse, tmp_path)
    store_features(warehouse)
    offline.materialize_vectors(warehouse, MODEL, FIRST, LAST)
    done = run(tmp_path, "--model", MODEL.name, "--first", str(LAST), "--json", command="stale")
    (found,) = json.loads(done.stdout)

    assert (found["day"], found["rows"]) == (str(LAST), offline.vectors(warehouse, MODEL, LAST, LAST).num_rows)
    assert set(found["differing"]) == {*offline.feature_names(flight_delay), FEATURE_HASH} - {*offline.feature_names(MODEL)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "flight_delay", "--spine", "keyless.csv", "--out", "out.csv"), "lacks 'origin', 'carrier', 'dest', 'tailnum'"),
        (("--model", "delay", "--spine", "keyless.csv", "--out", "out.csv"), "Unknown model 'delay'. Known: "),
        (("--model", "flight_delay", "--spine", "keyless.csv", "--out", "out.xls"), "has the unknown extension '.xls'"),
        (("--model", "flight_delay", "--spine", "keyless.csv"), "Missing option '--out'"),
    ],
)
def test_a_bad_command_ends_with_exit_code_2_and_writes_nothing(
    isolated: Settings, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    """One sentence on standard error that names the problem, no trace, and no file that was not there before."""
    write_stack_env(isolated, tmp_path)
    (tmp_path / "keyless.csv").write_text("decision_at\n2013-01-08T10:00:00Z\n")
    files = {"--spine", "--out"}
    absolute = [str(tmp_path / one) if before in files else one for before, one in zip(("", *arguments), arguments, strict=False)]
    before = {file.name for file in tmp_path.iterdir()}
    done = run(tmp_path, *absolute)

    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert {file.name for file in tmp_path.iterdir()} == before


def test_a_run_materializes_vectors_and_proves_them(warehouse: Settings, tmp_path: Path) -> None:
    """One run over the days, and a day without flights: rows, snapshots and lineage in the metadata, and all checks pass."""
    write_stack_env(warehouse, tmp_path)
    store_features(warehouse, FIRST, date(2013, 1, 20))
    asset = vectors_asset()
    with dg.DagsterInstance.ephemeral() as instance:
        for first, last in ((FIRST, LAST), (date(2013, 1, 20), date(2013, 1, 20))):
            result = dg.materialize(
                [asset],
                resources={"platform": Platform(home=str(tmp_path))},
                instance=instance,
                tags={"dagster/asset_partition_range_start": str(first), "dagster/asset_partition_range_end": str(last)},
            )
            checks = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
            *earlier, event = result.get_asset_materialization_events()
            metadata = event.materialization.metadata
            of_days = [int(str(one.materialization.metadata[PARTITION_ROWS].value)) for one in (*earlier, event)]

            assert result.success
            of_run = (assets.ROWS_MATCH, assets.IN_RANGE, assets.PARITY, assets.OLD_DAYS, assets.AS_OF, assets.SERVED)
            assert checks == dict.fromkeys(of_run, True)
            assert sum(of_days) == (observations().height if first == FIRST else 0)
            assert len(set(of_days)) == len(of_days)
            assert isinstance(metadata["run"].value, dict)
            assert metadata["run"].value["rows"] == sum(of_days)
            assert metadata["snapshot_id"].value == str(tables.snapshot_id(warehouse, names.vectors(MODEL.name)))
            lineage = metadata["dagster/column_lineage"]
            assert isinstance(lineage, dg.TableColumnLineageMetadataValue)
            assert set(offline.feature_names(MODEL)) <= set(lineage.value.deps_by_column)
