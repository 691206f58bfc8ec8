"""Monitoring on real services: findings replace each other by day, and failed days ask for one retraining."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from gzip import decompress
from pathlib import Path
from secrets import token_hex

import dagster as dg
import pytest
from psycopg import sql

from pipeline_assets.core import names
from pipeline_assets.core.connections import object_store, warehouse
from pipeline_assets.core.errors import NotTrained
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform
from pipeline_assets.core.settings import Settings
from pipeline_assets.serving.batch.score import score_days
from pipeline_assets.serving.monitoring import assets, sensors, tables
from pipeline_assets.serving.monitoring.drift import Drift
from pipeline_assets.serving.monitoring.feedback import Retraining, asked_for
from pipeline_assets.serving.monitoring.performance import KNOWN, NOT_YET_KNOWN, DayPerformance, figure_names
from pipeline_assets.serving.monitoring.watch import has_drifted, watch_drift, watch_performance
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.tasks import METRICS, MetricRule, Task
from pipeline_assets.use_cases.nyc_flights import use_case
from pipeline_assets_tests.live_models import go_live, store_labels, store_vectors
from pipeline_assets_tests.model_rows import BINARY, MULTICLASS, REGRESSION, START, TASKS, small_model
from pipeline_assets_tests.stack_env import write_stack_env

FIRST, LAST = START.date(), START.date() + timedelta(days=6)
DAY = timedelta(days=1)
OF_EACH_TASK = pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)


@pytest.fixture
def settings(isolated: Settings, stack: Settings) -> Settings:
    """Services with an empty warehouse, lake and bucket, and the model registry of the session."""
    return isolated.model_copy(update={"mlflow_url": stack.mlflow_url})


@pytest.fixture
def model(isolated: Settings) -> Model:
    """A model with ten days of vectors and nothing else."""
    named = small_model(f"small_{token_hex(4)}")
    store_vectors(isolated, named, days=10)
    return named


def keep_drift(settings: Settings, model: Model, day: date, columns: dict[str, float]) -> None:
    """Findings of one day: the index of each column, against a limit of 0.25."""
    found = [Drift(day=day, column=name, psi=psi, limit=0.25, rows=900, null_share=0.0) for name, psi in columns.items()]
    tables.replace_drift(settings, model, found, (day, day))


def keep_performance(settings: Settings, model: Model, day: date, figures: dict[str, float | None]) -> None:
    """What was found of one day; figures that are not given do not exist."""
    known = dict.fromkeys(figure_names(model)) | figures
    found = DayPerformance(day=day, scores=900, labels=900, figures=known, status=KNOWN)
    tables.replace_performance(settings, model, [found], (day, day), START)


def scored(settings: Settings, task: Task = BINARY, rules: tuple[MetricRule, ...] = ()) -> Model:
    """A model whose first week was scored and has labels, of which twenty per day are enough."""
    named = small_model(f"small_{token_hex(4)}", task)
    named = replace(named, monitor=replace(named.monitor, rules=rules, min_labels=20))
    store_vectors(settings, named, days=10)
    go_live(settings, named, seed=1, live_from=START)
    score_days(settings, named, FIRST, LAST, version="champion", run_id="a test")
    store_labels(settings, named)
    return named


def test_a_day_measured_again_replaces_its_findings(isolated: Settings, model: Model) -> None:
    """The same day twice leaves one row per column, with the newer numbers; other days stay."""
    keep_drift(isolated, model, FIRST, {"score": 0.9, "a": 0.9, "gone": 0.9})
    keep_drift(isolated, model, FIRST + DAY, {"score": 0.1, "a": 0.3})
    keep_drift(isolated, model, FIRST, {"score": 0.1, "a": 0.1})

    found = tables.drifted_days(isolated, model, None)

    assert [(day.day, day.columns, day.drifted) for day in found] == [(FIRST, 2, ()), (FIRST + DAY, 2, ("a",))]


# As they were made when every model was binary.
EARLIER = """
create schema if not exists monitor;
create table {} (day date, feature text, psi double precision, psi_limit double precision, rows bigint, null_share double precision,
primary key (day, feature));
create table {} (day date, scores bigint, labels bigint, label_rate double precision, mean_score double precision,
roc_auc double precision, log_loss double precision, brier double precision, primary key (day))
"""


def test_tables_of_an_earlier_version_are_used_and_extended(isolated: Settings, model: Model) -> None:
    """A binary model needs no more columns than before; a rule that names another metric adds that, and what was there stays."""
    with warehouse(isolated) as connection:
        made = [sql.Identifier(*name(model.name)) for name in (names.drift, names.performance)]
        connection.execute(sql.SQL(EARLIER).format(*made))
    keep_drift(isolated, model, FIRST, {"score": 0.1})
    keep_performance(isolated, model, FIRST, {"roc_auc": 0.7})
    before = tables.measured_days(isolated, model, None)
    ruled = replace(model, monitor=replace(model.monitor, rules=(MetricRule(metric="pr_auc", limit=0.1),)))
    keep_performance(isolated, ruled, FIRST + DAY, {"roc_auc": 0.8, "pr_auc": 0.4})

    assert [figures["roc_auc"] for _, figures in before] == [0.7]
    assert [(figures["roc_auc"], figures["pr_auc"]) for _, figures in tables.measured_days(isolated, ruled, None)] == [
        (0.7, None),
        (0.8, 0.4),
    ]


def test_nothing_measured_asks_for_nothing(isolated: Settings, model: Model) -> None:
    """An empty warehouse has no failed day."""
    assert asked_for(isolated, model, None) is None


def test_many_failed_days_ask_once_for_the_newest(isolated: Settings, model: Model) -> None:
    """A drifted score fails a day; the newest failed day asks, with what was known as the next day began."""
    for offset in range(4):
        keep_drift(isolated, model, FIRST + offset * DAY, {"score": 0.9 if offset < 3 else 0.1, "a": 0.1, "b": 0.1})

    asked = asked_for(isolated, model, None)

    assert asked == Retraining(day=FIRST + 2 * DAY, as_of=START + 3 * DAY, reason="the score and 0 of 2 features drifted", is_due=True)


def test_a_few_drifted_features_ask_for_nothing(isolated: Settings, model: Model) -> None:
    """A day fails only above the declared share of drifted features."""
    keep_drift(isolated, model, FIRST, {"score": 0.1, "a": 0.9, "b": 0.1, "c": 0.1, "d": 0.1})

    assert asked_for(isolated, model, None) is None
    assert asked_for(isolated, replace(model, monitor=replace(model.monitor, max_drifted_share=0.1)), None) is not None


@pytest.mark.parametrize(("days_later", "asks"), [(6, False), (7, True)])
def test_the_cool_down_is_kept(isolated: Settings, model: Model, days_later: int, *, asks: bool) -> None:
    """After a retraining was asked for, failed days within seven days of event time wait."""
    keep_drift(isolated, model, FIRST + days_later * DAY, {"score": 0.9})

    assert (asked_for(isolated, model, FIRST) is not None) == asks


def test_a_broken_rule_asks_and_what_is_not_known_does_not(isolated: Settings, model: Model) -> None:
    """A known figure beyond its limit fails its day, and the reason names it; a day whose labels are not yet known asks for nothing."""
    keep_performance(isolated, model, FIRST, {"roc_auc": None})
    unknown = asked_for(isolated, model, None)
    keep_performance(isolated, model, FIRST + DAY, {"roc_auc": 0.5})
    asked = asked_for(isolated, model, None)

    assert unknown is None
    assert asked is not None
    assert (asked.day, asked.reason) == (FIRST + DAY, "roc_auc below 0.62")


def tick(
    settings: Settings, model: Model, home: Path, instance: dg.DagsterInstance, cursor: str | None = None
) -> dg.SensorResult | dg.SkipReason:
    """One evaluation of the model's sensor."""
    write_stack_env(settings, home)
    context = dg.build_sensor_context(instance=instance, resources={"platform": Platform(home=str(home))}, cursor=cursor)
    project = Project(use_cases=(replace(use_case, models=(model,)),))
    result = sensors.retraining(project, model)(context)
    assert isinstance(result, dg.SensorResult | dg.SkipReason)
    return result


def test_the_sensor_asks_once_and_moves_its_cursor(isolated: Settings, model: Model, tmp_path: Path) -> None:
    """A tick on a failed day gives one run request with the day as run key; the next tick, from its cursor, skips."""
    keep_drift(isolated, model, FIRST, {"score": 0.9})
    with dg.DagsterInstance.ephemeral() as instance:
        first = tick(isolated, model, tmp_path, instance)
        assert isinstance(first, dg.SensorResult)
        second = tick(isolated, model, tmp_path, instance, first.cursor)

    (request,) = first.run_requests or ()
    assert request.run_key == f"{model.name}-2013-01-01"
    assert request.run_config == {"ops": {f"training_sets__{model.name}": {"config": {"as_of": "2013-01-02T00:00:00+00:00"}}}}
    assert first.cursor == "2013-01-01"
    assert isinstance(second, dg.SkipReason)


def test_the_sensor_waits_for_late_labels_and_says_until_when(isolated: Settings, model: Model, tmp_path: Path) -> None:
    """A retraining sees the labels of the day that asked for it: nothing is requested before they have matured."""
    late = replace(model, label=replace(model.label, horizon=14 * DAY))
    keep_drift(isolated, late, FIRST, {"score": 0.9})
    with dg.DagsterInstance.ephemeral() as instance:
        waiting = tick(isolated, late, tmp_path, instance)
        store_vectors(isolated, late, days=15)
        due = tick(isolated, late, tmp_path, instance)

    assert isinstance(waiting, dg.SkipReason)
    assert "2013-01-01 failed (the score and 0 of 0 features drifted)" in str(waiting.skip_message)
    assert "matured at 2013-01-16T00:00:00+00:00" in str(waiting.skip_message)
    assert isinstance(due, dg.SensorResult)
    assert [request.run_key for request in due.run_requests or ()] == [f"{late.name}-2013-01-01"]


def test_the_sensor_skips_for_a_run_of_its_own_job_only(isolated: Settings, model: Model, tmp_path: Path) -> None:
    """Regression: an unfinished training of another model made every sensor skip."""
    keep_drift(isolated, model, FIRST, {"score": 0.9})
    found = []
    for trained in ("another", model.name):
        with dg.DagsterInstance.ephemeral() as instance:
            unfinished = dg.DagsterRun(job_name=names.train(trained), run_id=token_hex(8), status=dg.DagsterRunStatus.STARTED)
            instance.add_run(unfinished)
            found.append(tick(isolated, model, tmp_path, instance))

    assert [isinstance(one, dg.SkipReason) for one in found] == [False, True]


@OF_EACH_TASK
def test_drift_and_performance_of_each_task_are_measured(settings: Settings, task: Task) -> None:
    """Each column of scores and every feature have a figure per day, and every day with labels the metrics of the task."""
    named = scored(settings, task)
    watched, judged = watch_drift(settings, named, FIRST, LAST), watch_performance(settings, named, FIRST, LAST)
    scores = {BINARY: {"score"}, REGRESSION: {"value"}, MULTICLASS: {"score_on_time", "score_late", "score_cancelled"}}[task]
    columns = {one.column for one in watched.found}

    assert scores <= columns
    # The weekday is judged by whole weeks, and the first of them ends on the last day.
    assert [one.day for one in watched.found if one.column == "request__weekday"] == [LAST]
    assert len(watched.found) == (len(columns) - 1) * 7 + 1
    assert watched.rows == sum(day.scores for day in judged.found.days) == sum(day.labels for day in judged.found.days) > 600
    assert [day.status for day in judged.found.days] == [KNOWN] * 7
    assert all(day.figures[name] is not None for day in judged.found.days for name in set(METRICS[type(task)]) & set(figure_names(named)))
    assert tables.measured_days(settings, named, None) == [(day.day, dict(day.figures)) for day in judged.found.days]


def test_performance_is_judged_as_of_a_time(settings: Settings) -> None:
    """Labels of the last hours are not known at midnight; a day whose labels cannot all be known is not judged."""
    named = scored(settings)
    late = replace(named, label=replace(named.label, horizon=3 * DAY))
    at_midnight = watch_performance(settings, named, FIRST, LAST, START + 7 * DAY).found.days
    with_horizon = watch_performance(settings, late, FIRST, LAST, START + 7 * DAY).found.days

    assert at_midnight[-1].labels < at_midnight[-1].scores
    assert [day.status for day in at_midnight] == [KNOWN] * 7
    assert [day.status for day in with_horizon] == [KNOWN] * 4 + [NOT_YET_KNOWN] * 3
    assert [day.labels == day.scores for day in with_horizon] == [True] * 4 + [False] * 3


def test_days_without_predictions_are_an_error_that_says_what_to_do(settings: Settings, model: Model) -> None:
    """Nothing was scored, so there is nothing to judge."""
    with pytest.raises(NotTrained, match=rf"has no predictions\. Materialize predictions/{model.name} first"):
        watch_performance(settings, model, FIRST, LAST)


def test_a_run_checks_drift_and_performance(settings: Settings, tmp_path: Path) -> None:
    """The check names the metric that broke and on how many days; report and picture are in the metadata."""
    named = scored(settings, REGRESSION, (MetricRule(metric="mae", limit=0.5), MetricRule(metric="bias", limit=500.0)))
    write_stack_env(settings, tmp_path)
    project = Project(use_cases=(replace(use_case, models=(named,)),))
    made = [asset for asset in assets.defs(project).assets or () if isinstance(asset, dg.AssetsDefinition)]
    op = "__".join(names.performance(named.name))
    result = dg.materialize(
        made,
        resources={"platform": Platform(home=str(tmp_path))},
        run_config={"ops": {op: {"config": {"as_of": "2013-01-09T00:00:00Z"}}}},
        tags=names.range_tags(FIRST, LAST),
    )
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    metadata = {event.asset_key: event.materialization.metadata for event in result.get_asset_materialization_events()}
    drift, performance = (metadata[dg.AssetKey(list(name(named.name)))] for name in (names.drift, names.performance))

    assert not checks[assets.GOOD_SCORES].passed
    assert checks[assets.GOOD_SCORES].description == "mae above 0.5 on 7 days. 0 days are not yet known, 0 have too few labels."
    assert assets.NO_DRIFT in checks
    events = result.get_asset_materialization_events()
    by_day = [event.materialization.metadata for event in events if "mae" in event.materialization.metadata]
    assert isinstance(performance["run"].value, dict)
    assert performance["run"].value["days_known"] == len(by_day) == len({one["mae"].value for one in by_day}) == 7
    assert all("picture" not in event.materialization.metadata for event in events if event.partition != str(LAST))
    assert performance["as_of"].value == datetime(2013, 1, 9, tzinfo=UTC).timestamp()
    assert "data:image/png;base64," in str(drift["picture"].value)
    assert_says_the_same(settings, named, drift, str(checks[assets.NO_DRIFT].description))


def assert_says_the_same(settings: Settings, model: Model, metadata: Mapping[str, dg.MetadataValue], sentence: str) -> None:
    """The warehouse, the run, the check and the report name the same days; the report is of the newest that drifted, or of the last."""
    drifted = [day.day for day in tables.drifted_days(settings, model, None) if has_drifted(model, day)]
    shown, of_run = drifted[-1] if drifted else LAST, metadata["run"].value
    name = f"{shown}_v1.html"
    page = decompress(
        object_store(settings).get_object(Bucket=settings.s3_bucket, Key=f"reports/{model.name}/{name}")["Body"].read()
    ).decode()

    assert isinstance(of_run, dict)
    assert (of_run["days"], of_run["drifted_days"]) == (7, len(drifted))
    assert sentence.startswith(f"{len(drifted) or 'None'} of 7 days ha")
    assert str(metadata["report"].value) == f"{str(settings.dagster_url).rstrip('/')}/_reports/{model.name}/{name}"
    assert f"<h1>Drift of {model.name} version 1 on {shown}</h1>" in page
    assert f"{shown} has {'' if drifted else 'not '}drifted" in page
