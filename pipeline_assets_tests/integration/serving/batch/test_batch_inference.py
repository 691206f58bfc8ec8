"""Batch inference on real services: scores of whole days, by the version that was asked for, changed only where they differ."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from secrets import token_hex
from typing import Any, LiteralString

import dagster as dg
import pyarrow as pa
import pytest
from psycopg import sql

from pipeline_assets.core import connections, names
from pipeline_assets.core.errors import NoLiveVersion, NotTrained, TableMismatch, UnknownName
from pipeline_assets.core.names import PARTITION_ROWS
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.registry import versions
from pipeline_assets.model_lifecycle.registry.ledger import AskedVersion
from pipeline_assets.processing.lake import tables
from pipeline_assets.serving.batch import assets, predictions
from pipeline_assets.serving.batch.answers import scores_of
from pipeline_assets.serving.batch.score import Scored, prediction_ids, score_days
from pipeline_assets.serving.batch.spread import ClassRows, Histogram, read_spread
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.tasks import Task
from pipeline_assets.use_cases import nyc_flights
from pipeline_assets_tests.live_models import go_live, store_vectors
from pipeline_assets_tests.model_rows import MULTICLASS, REGRESSION, START, TASKS, small_model, vectors
from pipeline_assets_tests.stack_env import write_stack_env

FIRST, LAST = START.date(), START.date() + timedelta(days=6)
MIDDLE = START + timedelta(days=3, hours=12)
Row = dict[str, Any]


@pytest.fixture
def settings(isolated: Settings, stack: Settings) -> Settings:
    """Services with an empty warehouse and lake, and the model registry of the session."""
    return isolated.model_copy(update={"mlflow_url": stack.mlflow_url})


@pytest.fixture
def model(settings: Settings) -> Model:
    """A model of its own name with ten days of vectors."""
    named = small_model(f"small_{token_hex(4)}")
    store_vectors(settings, named, days=10)
    return named


def score(
    settings: Settings, model: Model, run_id: str, *, days: tuple[date, date] = (FIRST, LAST), version: AskedVersion = "champion"
) -> Scored:
    """Scores the first week, or other days."""
    return score_days(settings, model, *days, version=version, run_id=run_id)


def kept(settings: Settings, model: Model) -> list[Row]:
    """All predictions, by time and key."""
    query = sql.SQL("select * from {} order by decision_at, {}").format(table_of(model), sql.Identifier(model.observations.keys[0]))
    with connections.arrow_warehouse(settings) as connection, connection.cursor() as cursor:
        cursor.execute(query.as_string())
        return list(cursor.fetch_arrow_table().to_pylist())


def table_of(model: Model) -> sql.Identifier:
    """The table of the model's predictions."""
    return sql.Identifier(*names.predictions(model.name))


def asked(settings: Settings, model: Model) -> pa.Table:
    """The vectors of the first week, by time and key."""
    rows = tables.read_days(settings, names.vectors(model.name), FIRST, LAST).read_all()
    return rows.sort_by([(model.observations.decision_at, "ascending"), (model.observations.keys[0], "ascending")])


def distinct(rows: Iterable[Row], column: str) -> set[Any]:
    """The values of a column."""
    return {row[column] for row in rows}


def test_every_vector_gets_the_score_of_the_live_version(settings: Settings, model: Model) -> None:
    """One row per vector with the score to the last bit, the version, the hash of its features, and the run."""
    live = go_live(settings, model, seed=1, live_from=START)
    done = score(settings, model, "run 1")
    rows, inputs = kept(settings, model), asked(settings, model)

    assert [row["score"] for row in rows] == versions.load(settings, model, live).scorer.score(inputs).tolist()
    assert [row[model.observations.keys[0]] for row in rows] == inputs[model.observations.keys[0]].to_pylist()
    assert [row["feature_hash"] for row in rows] == inputs["feature_hash"].to_pylist()
    assert (distinct(rows, "model_version"), distinct(rows, "run_id")) == ({live}, {"run 1"})
    assert len(distinct(rows, "prediction_id")) == len(rows) == done.vectors == done.written
    assert done.snapshot_id == tables.snapshot_id(settings, names.vectors(model.name))


@pytest.mark.parametrize("task", [MULTICLASS, REGRESSION], ids=lambda task: type(task).__name__)
def test_each_task_keeps_its_own_answers(settings: Settings, task: Task) -> None:
    """The scores of the live version to the last bit in the columns of the task, which a second run leaves alone; all are in range."""
    named = small_model(f"small_{token_hex(4)}", task)
    store_vectors(settings, named, days=10)
    live = go_live(settings, named, seed=1, live_from=START)
    score(settings, named, "run 1")
    again = score(settings, named, "run 2")
    rows, expected = pa.Table.from_pylist(kept(settings, named)), versions.load(settings, named, live).scorer.score(asked(settings, named))
    spread = read_spread(settings, named, FIRST, LAST)

    assert scores_of(task, rows).tolist() == expected.tolist()
    assert again.written == predictions.read_kept(settings, named, FIRST, LAST).out_of_range == 0
    if isinstance(spread, ClassRows):
        assert dict(zip(spread.classes, spread.likeliest, strict=True)) == {
            one: rows["predicted"].to_pylist().count(one) for one in spread.classes
        }
        assert sum(spread.expected) == pytest.approx(rows.num_rows)
    else:
        assert (sum(spread.counts), spread.unit) == (rows.num_rows, "minutes")
        assert min(rows["value"].to_pylist()) <= spread.low < spread.high <= max(rows["value"].to_pylist())


def test_several_keys_and_integers_keep_their_types(settings: Settings) -> None:
    """A decision of a text and an integer has both as columns, and an identifier made of both."""
    named = small_model(f"small_{token_hex(4)}")
    keyed = replace(named, observations=replace(named.observations, keys=("flight_id", "leg")))
    table = vectors(named, 700)
    table = table.append_column("leg", pa.array(range(table.num_rows), pa.int64()))
    last = START.date() + timedelta(days=27)
    tables.replace_days(settings, names.vectors(named.name), table, named.observations.decision_at, FIRST, last)
    go_live(settings, keyed, seed=1, live_from=START)
    score(settings, keyed, "run 1")
    again = score(settings, keyed, "run 2")
    rows = kept(settings, keyed)
    with connections.warehouse(settings) as connection:
        stored = connection.execute(sql.SQL("select prediction_id::text from {} order by leg").format(table_of(keyed))).fetchall()
    ids = prediction_ids(keyed, rows[0]["model_version"], [table["flight_id"], table["leg"]], table["decision_at"]).to_pylist()

    assert [row["leg"] for row in rows] == list(range(len(rows)))
    assert [one for (one,) in stored] == ids[: len(rows)]
    assert (again.written, again.removed) == (0, 0)


# As it was made before models could answer otherwise.
EARLIER = """
create schema if not exists predictions;
create table {} (prediction_id uuid primary key, flight_id text not null, decision_at timestamptz not null,
score double precision not null, model_version bigint not null, feature_hash text not null,
run_id text not null, scored_at timestamptz not null)
"""


def test_a_table_of_an_earlier_version_goes_on(settings: Settings, model: Model) -> None:
    """It gets the columns that say which version of a decision was judged, and which snapshot of the vectors held what was scored."""
    go_live(settings, model, seed=1, live_from=START)
    with connections.warehouse(settings) as connection:
        connection.execute(sql.SQL(EARLIER).format(table_of(model)))
    done = score(settings, model, "run 1")

    assert len(kept(settings, model)) == done.written > 0
    assert list(kept(settings, model)[0]) == [
        "prediction_id", "flight_id", "decision_at", "score", "model_version", "feature_hash", "run_id", "scored_at",
        "observation_known_at", "vectors_snapshot_id",
    ]  # fmt: skip
    held = {row["vectors_snapshot_id"] for row in kept(settings, model)}
    assert held == {done.snapshot_id}
    assert all(row["observation_known_at"] is not None for row in kept(settings, model))


def test_a_table_of_another_task_is_refused_by_name(settings: Settings, model: Model) -> None:
    """The error says in which columns the table differs; nothing is written to it."""
    go_live(settings, model, seed=1, live_from=START)
    score(settings, model, "run 1")
    before, other = kept(settings, model), replace(model, task=REGRESSION)
    go_live(settings, other, seed=1, live_from=START)
    with pytest.raises(TableMismatch, match=r"was made for other keys, another task or other classes: it differs in score, value\."):
        score(settings, other, "run 2")

    assert kept(settings, model) == before


def test_values_beside_each_other_have_a_spread_even_if_all_are_broken(settings: Settings) -> None:
    """NaN is counted as out of range, and drawn nowhere; values that are all the same have a bin."""
    named = small_model(f"small_{token_hex(4)}", REGRESSION)
    store_vectors(settings, named, days=10)
    go_live(settings, named, seed=1, live_from=START)
    rows = score(settings, named, "run 1").vectors
    found = []
    for value in ("NaN", "7"):
        with connections.warehouse(settings) as connection:
            connection.execute(sql.SQL("update {} set value = %s").format(table_of(named)), (value,))
        spread = read_spread(settings, named, FIRST, LAST)
        assert isinstance(spread, Histogram)
        found.append((predictions.read_kept(settings, named, FIRST, LAST).out_of_range, sum(spread.counts), spread.low))

    assert found == [(rows, 0, 0.0), (0, rows, 7.0)]


def test_the_same_days_again_change_nothing(settings: Settings, model: Model) -> None:
    """Rows that come out as they were keep their run and their time; a day put right changes alone."""
    go_live(settings, model, seed=1, live_from=START)
    score(settings, model, "run 1")
    before = kept(settings, model)
    again = score(settings, model, "run 2")
    with connections.warehouse(settings) as connection:
        wrong = sql.SQL("update {} set score = 0.5 where decision_at < %s").format(table_of(model))
        connection.execute(wrong, (START + timedelta(days=1),))
    repaired = score(settings, model, "run 3")
    after = kept(settings, model)

    assert (again.written, again.unchanged, again.removed) == (0, len(before), 0)
    assert repaired.written == repaired.removed == sum(row["run_id"] == "run 3" for row in after) < len(before)
    assert [row["score"] for row in after] == [row["score"] for row in before]
    assert distinct([row for row in after if row["decision_at"] >= START + timedelta(days=1)], "run_id") == {"run 1"}


def test_a_new_champion_replaces_the_scores_of_the_days_asked_for(settings: Settings, model: Model) -> None:
    """Days that are scored again belong to the new version, all others stay; vectors that are gone take their scores with them."""
    first = go_live(settings, model, seed=1, live_from=START)
    score(settings, model, "run 1")
    second = go_live(settings, model, seed=2, live_from=MIDDLE)
    done = score(settings, model, "run 2", days=(LAST, LAST))
    rows = kept(settings, model)
    tables.replace_days(settings, names.vectors(model.name), asked(settings, model).slice(0, 0), model.observations.decision_at, LAST, LAST)
    emptied = score(settings, model, "run 3", days=(LAST, LAST))

    assert {row["model_version"] for row in rows if row["decision_at"].date() == LAST} == {second}
    assert {row["model_version"] for row in rows if row["decision_at"].date() < LAST} == {first}
    assert done.written == done.removed == done.versions[second]
    assert (emptied.vectors, emptied.removed) == (0, done.written)
    assert {row["decision_at"].date() for row in kept(settings, model)} == {FIRST + timedelta(days=day) for day in range(6)}


def test_as_of_scores_each_day_with_the_version_that_was_live_as_it_began(settings: Settings, model: Model) -> None:
    """A promotion in the middle of a day counts from the next day on; the champion of today plays no part."""
    first = go_live(settings, model, seed=1, live_from=START)
    second = go_live(settings, model, seed=2, live_from=MIDDLE)
    done = score(settings, model, "run 1", version="as_of")
    rows = kept(settings, model)
    until = datetime.combine(MIDDLE.date() + timedelta(days=1), time(), UTC)
    loaded = {number: versions.load(settings, model, number).scorer.score(asked(settings, model)) for number in (first, second)}

    assert [row["model_version"] for row in rows] == [first if row["decision_at"] < until else second for row in rows]
    assert [row["score"] for row in rows] == [loaded[row["model_version"]][position] for position, row in enumerate(rows)]
    assert done.versions == {
        first: sum(row["decision_at"] < until for row in rows),
        second: sum(row["decision_at"] >= until for row in rows),
    }


def test_days_without_a_live_version_are_refused_before_anything_is_written(settings: Settings, model: Model) -> None:
    """The error names the days; what the table held is untouched. Without any version, or any vectors, there is nothing to score with."""
    with pytest.raises(NotTrained, match="has no live version"):
        score(settings, model, "run 0")
    go_live(settings, model, seed=1, live_from=MIDDLE)
    score(settings, model, "run 1")
    before = kept(settings, model)
    with pytest.raises(NoLiveVersion, match="no live version on 2013-01-01, 2013-01-02, 2013-01-03, 2013-01-04"):
        score(settings, model, "run 2", version="as_of")
    with pytest.raises(UnknownName):
        score(settings, replace(model, name="never_seen"), "run 3", version="as_of")

    assert kept(settings, model) == before


def cut_off(settings: Settings, model: Model, expected: list[Row]) -> None:
    """Replaces all rows by none, and dies before the commit; until then everybody else sees what was there."""
    with predictions.replacing(settings, model, FIRST, LAST, asked(settings, model).schema) as replacement:
        assert replacement.finish("run 2", None).removed == len(expected)
        assert kept(settings, model) == expected
        raise RuntimeError("cut off")


def test_a_run_that_dies_in_the_middle_leaves_the_days_as_they_were(settings: Settings, model: Model) -> None:
    """All days change in one transaction: what was there before is there until the commit, and after a failure."""
    go_live(settings, model, seed=1, live_from=START)
    score(settings, model, "run 1")
    before = kept(settings, model)
    with pytest.raises(RuntimeError, match="cut off"):
        cut_off(settings, model, expected=before)

    assert kept(settings, model) == before


def test_runs_at_the_same_time_wait_for_each_other(settings: Settings, model: Model) -> None:
    """Two first runs over the same days and one over others end with each row once."""
    go_live(settings, model, seed=1, live_from=START)
    days = [(FIRST, LAST), (FIRST, LAST), (LAST, LAST + timedelta(days=3))]
    with ThreadPoolExecutor(len(days)) as runs:
        done = list(runs.map(lambda each: score(settings, model, f"run {each}", days=each), days))
    rows = kept(settings, model)

    assert len(distinct(rows, "prediction_id")) == len(rows) == sum(one.written for one in done) - sum(one.removed for one in done)
    assert predictions.read_kept(settings, model, *days[0]).rows == done[0].vectors == done[1].vectors


def run(settings: Settings, model: Model, home: Path, config: dict[str, str]) -> dg.ExecuteInProcessResult:
    """One run of the asset over the first week."""
    write_stack_env(settings, home)
    project = Project(use_cases=(replace(nyc_flights.use_case, models=(model,)),))
    (asset,) = [asset for asset in assets.defs(project).assets or () if isinstance(asset, dg.AssetsDefinition)]
    with dg.DagsterInstance.ephemeral() as instance:
        return dg.materialize(
            [asset],
            resources={"platform": Platform(home=str(home))},
            instance=instance,
            run_config={"ops": {"__".join(names.predictions(model.name)): {"config": config}}},
            tags={"dagster/asset_partition_range_start": str(FIRST), "dagster/asset_partition_range_end": str(LAST)},
            raise_on_error=False,
        )


def test_a_run_scores_a_range_and_checks_it(settings: Settings, model: Model, tmp_path: Path) -> None:
    """Rows, versions, links and a plot in the metadata; every check passes, with the champion and as of each day."""
    live = go_live(settings, model, seed=1, live_from=START)
    result = run(settings, model, tmp_path, {})
    again = run(settings, model, tmp_path, {"version": "as_of"})
    *earlier, event = result.get_asset_materialization_events()
    metadata = event.materialization.metadata
    of_days = [int(str(one.materialization.metadata[PARTITION_ROWS].value)) for one in (*earlier, event)]
    rows = len(kept(settings, model))

    assert result.success
    assert {check.check_name: check.passed for check in result.get_asset_check_evaluations()} == {
        assets.ROWS_MATCH: True,
        assets.IN_RANGE: True,
        assets.AS_DECLARED: True,
    }
    assert sum(of_days) == rows > max(of_days)
    assert {tuple(one.materialization.metadata) for one in earlier} == {(PARTITION_ROWS,)}
    assert metadata["rows_by_version"].value == {str(live): rows}
    assert f"/versions/{live}" in str(metadata["versions"].value)
    assert "data:image/png;base64," in str(metadata["scores"].value)
    assert isinstance(metadata["dagster/column_lineage"], dg.TableColumnLineageMetadataValue)
    assert distinct(kept(settings, model), "run_id") == {result.run_id}
    assert again.success
    assert all(check.passed for check in again.get_asset_check_evaluations())


def test_a_failed_run_says_why_and_is_not_tried_again(settings: Settings, model: Model, tmp_path: Path) -> None:
    """Nothing live is an error that a person can read, not a trace."""
    result = run(settings, model, tmp_path, {})
    (failure,) = [event for event in result.all_events if event.is_step_failure]

    assert not result.success
    assert "has no live version. Materialize champions/" in str(failure.step_failure_data.user_failure_data)


CHANGES = {
    "delete from {} where score > 0.5": {assets.ROWS_MATCH, assets.AS_DECLARED},
    "update {} set score = 1.5 where score > 0.5": {assets.IN_RANGE},
    "update {} set score = 'NaN' where score > 0.5": {assets.IN_RANGE},
    "update {} set model_version = 99 where score > 0.5": {assets.AS_DECLARED},
}
MULTICLASS_CHANGES = {
    "update {} set score_late = score_late + 0.001": {assets.IN_RANGE},
    "update {} set score_late = 'NaN'": {assets.IN_RANGE},
    "update {} set score_late = score_late + 0.000000001": set(),
}


@pytest.mark.parametrize(("task", "changes"), [(TASKS[0], CHANGES), (MULTICLASS, MULTICLASS_CHANGES)], ids=["binary", "multiclass"])
def test_each_check_fails_for_its_reason(settings: Settings, task: Task, changes: dict[LiteralString, set[str]]) -> None:
    """Lost rows, answers that no model of the task gives and rows of another version are each recognized; the next run repairs them."""
    named = small_model(f"small_{token_hex(4)}", task)
    store_vectors(settings, named, days=10)
    go_live(settings, named, seed=1, live_from=START)
    for change, failing in changes.items():
        done = score(settings, named, "run 1")
        with connections.warehouse(settings) as connection:
            connection.execute(sql.SQL(change).format(table_of(named)))
        checks = assets.judge("champion", done, predictions.read_kept(settings, named, FIRST, LAST))

        assert {check.check_name for check in checks if not check.passed} == failing
