"""From history to prediction and from drift to a new model: the whole graph on real flights, and killed in the middle of each stage."""

import signal
from datetime import UTC, date, datetime, time, timedelta

import pytest

from pipeline_assets.core import connections, names
from pipeline_assets.core.settings import Settings, read_settings
from pipeline_assets.model_lifecycle.registry import ledger
from pipeline_assets.serving.monitoring import sensors
from pipeline_assets.spec.models import Model
from pipeline_assets.use_cases.nyc_flights.models import arrival_delay, flight_delay
from pipeline_assets_tests.graph_runs import PROJECT, Graph, RunConfig, vectors_between

# A snowstorm closed the airports on 8 and 9 February: the days that are scored are like none that the model has learned from.
FIRST, LAST = date(2013, 1, 1), date(2013, 2, 12)
SCORED = (date(2013, 2, 8), LAST)
INTERRUPTED = (date(2013, 2, 8), date(2013, 2, 11))
MODEL = flight_delay
BUILD_FEATURES, TRAIN = names.build_features("nyc_flights"), names.train(MODEL.name)
SCORE_AND_MONITOR = names.score_and_monitor(MODEL.name)
# An asset of every stage, with the days that its killed run was to materialize.
STAGES = (
    (names.staged("flight_history"), INTERRUPTED),
    (names.staged("weather"), INTERRUPTED),
    (names.staged("flight_departures"), INTERRUPTED),
    (names.lake("flight_departures"), INTERRUPTED),
    (names.raw("flight_departures"), INTERRUPTED),
    (names.cleaned("departures_history"), INTERRUPTED),
    (names.features("origin_departures"), INTERRUPTED),
    (names.vectors(MODEL.name), INTERRUPTED),
    (names.training_set(MODEL.name), None),
    (names.candidate(MODEL.name), None),
    (names.champion(MODEL.name), None),
    (names.package(MODEL.name), None),
    (names.predictions(MODEL.name), SCORED),
    (names.drift(MODEL.name), SCORED),
    (names.performance(MODEL.name), SCORED),
)


def as_of(model: Model) -> RunConfig:
    """The configuration of a training as of the first day that is scored."""
    return {"ops": {"__".join(names.training_set(model.name)): {"config": {"as_of": "2013-02-08T00:00:00+00:00"}}}}


@pytest.fixture(scope="module")
def walked(stack: Settings, streams: Settings, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """The graph after one whole walk: features of six weeks, a model, the scores and the watch of five days."""
    assert stack.home == streams.home
    graph = Graph(settings=read_settings(stack.home), folder=tmp_path_factory.mktemp("dagster"))
    graph.load_world(FIRST, LAST)
    graph.connect()
    graph.run(BUILD_FEATURES, (FIRST, LAST))
    graph.run(TRAIN, None, as_of(MODEL))
    graph.run(SCORE_AND_MONITOR, SCORED)
    graph.run(names.train(arrival_delay.name), None, as_of(arrival_delay))
    graph.run(names.score_and_monitor(arrival_delay.name), SCORED)
    return graph


@pytest.fixture(scope="module")
def digests(walked: Graph) -> dict[str, str]:
    """What every table held after the first walk."""
    return walked.digests()


@pytest.mark.timeout(900)
def test_every_flight_gets_one_score_from_the_live_model(walked: Graph) -> None:
    """Predictions are as many as feature vectors, each flight once, all by the version that the ledger calls live."""
    with connections.warehouse(walked.settings) as warehouse:
        scores, flights, version = warehouse.execute(
            "select count(*), count(distinct flight_id), min(model_version) from predictions.flight_delay"
        ).fetchone() or (0, 0, 0)

    assert scores == flights == vectors_between(walked.settings, *SCORED)
    assert scores > 3000
    assert version == ledger.live_version(walked.settings, MODEL)


@pytest.mark.timeout(900)
def test_a_second_model_scores_the_same_flights(walked: Graph) -> None:
    """The regression of the arrival shares observations and views, and has its own versions, values and performance."""
    with connections.warehouse(walked.settings) as warehouse:
        (values, shared) = warehouse.execute(
            "select count(*), count(*) filter (where exists (select from predictions.flight_delay as other "
            "where other.flight_id = one.flight_id)) from predictions.arrival_delay as one"
        ).fetchone() or (0, 0)
        days = warehouse.execute("select day, labels, mae from monitor.arrival_delay_performance order by day").fetchall()

    assert values == shared == vectors_between(walked.settings, *SCORED)
    assert ledger.live_version(walked.settings, arrival_delay) == 1
    assert [day for day, _, _ in days] == [date(2013, 2, day) for day in range(8, 13)]
    assert all(mae > 0 for _, labels, mae in days if labels >= arrival_delay.monitor.min_labels)


def test_the_lake_holds_every_good_row_once(walked: Graph) -> None:
    """Rows of the operational database are in the lake or in quarantine, none in both and none lost."""
    with connections.warehouse(walked.settings) as warehouse:
        (quarantined,) = warehouse.execute(
            "select count(*) from quarantine.rows where source = 'flight_schedule' and partition between %s and %s",
            [FIRST.isoformat(), LAST.isoformat()],
        ).fetchone() or (0,)
        (landed,) = warehouse.execute(
            "select count(*) from raw.flight_schedule where scheduled_departure_at >= %s and scheduled_departure_at < %s::date + 1",
            [FIRST, LAST],
        ).fetchone() or (0,)
    days = (LAST - FIRST).days + 1

    assert quarantined == 2 * days
    assert landed == _source_rows(walked.settings) - quarantined


@pytest.mark.timeout(900)
def test_a_second_walk_killed_in_every_stage_changes_nothing(walked: Graph, digests: dict[str, str]) -> None:
    """A kill -9 in the middle of each stage, then the same commands again, end with identical tables and the same live version."""
    live = ledger.live_version(walked.settings, MODEL)
    kills = [walked.materialize_and_kill(asset, days) for asset, days in STAGES]
    walked.run(BUILD_FEATURES, INTERRUPTED)
    walked.run(TRAIN, None, as_of(MODEL))
    walked.run(SCORE_AND_MONITOR, SCORED)

    assert kills == [-signal.SIGKILL] * len(STAGES)
    assert walked.digests() == digests
    assert ledger.live_version(walked.settings, MODEL) == live


@pytest.mark.timeout(900)
def test_a_day_that_drifted_ends_in_a_new_live_version(walked: Graph) -> None:
    """The sensor asks for a training as of the day that failed last; what is learned passes the gate and goes live, once."""
    (request,) = walked.tick(sensors.retraining(PROJECT, MODEL)).run_requests or ()
    walked.run(TRAIN, None, request.run_config)
    walked.run(TRAIN, None, request.run_config)
    first, second = ledger.history(walked.settings, MODEL)

    assert request.run_key == f"{MODEL.name}-{LAST}"
    assert "the score" in request.tags["pipeline/reason"]
    assert (first.action, second.action) == ("promote", "promote")
    assert (second.previous_version, second.version) == (first.version, ledger.live_version(walked.settings, MODEL))
    assert second.live_from == datetime.combine(LAST + timedelta(days=1), time(), UTC)


def _source_rows(settings: Settings) -> int:
    import psycopg

    with psycopg.connect(settings.databases["airline_ops"].get_secret_value()) as operations:
        (rows,) = operations.execute(
            "select count(*) from flight_schedule where scheduled_departure_at >= %s and scheduled_departure_at < %s::date + 1",
            [FIRST, LAST],
        ).fetchone() or (0,)
    return int(rows)
