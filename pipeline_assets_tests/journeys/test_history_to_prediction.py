"""The walk from history to prediction: the whole graph on real flights, twice, and killed in the middle of every stage."""

import signal
from datetime import date

import pytest

from pipeline_assets.core import connections, names
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.registry import ledger
from pipeline_assets.use_cases.nyc_flights import use_case
from pipeline_assets_tests.graph_runs import Graph, vectors_between

FIRST, LAST = date(2013, 1, 1), date(2013, 2, 24)
SCORED = (date(2013, 2, 20), LAST)
INTERRUPTED = (date(2013, 2, 19), date(2013, 2, 22))
MODEL = use_case.model
AS_OF = {"__".join(names.training_set(MODEL.name)): {"as_of": "2013-02-20T00:00:00+00:00"}}
STAGES = (
    (names.BUILD_FEATURES, "staged__flight_history"),
    (names.BUILD_FEATURES, "staged__weather"),
    (names.BUILD_FEATURES, "staged__flight_departures"),
    (names.BUILD_FEATURES, "lake__flight_departures"),
    (names.BUILD_FEATURES, "raw__flight_departures"),
    (names.BUILD_FEATURES, "cleaned_by_day"),
    (names.BUILD_FEATURES, "features__origin_departures"),
    (names.BUILD_FEATURES, "feature_store__flight_delay"),
    (names.SCORE_AND_MONITOR, "predictions__flight_delay"),
    (names.SCORE_AND_MONITOR, "monitor__flight_delay_drift"),
)


@pytest.fixture(scope="module")
def walked(stack: Settings, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """The graph after one whole walk: features of eight weeks, a model, the scores and the watch of five days."""
    graph = Graph(settings=stack, folder=tmp_path_factory.mktemp("dagster"))
    graph.load_world(FIRST, LAST)
    graph.run(names.BUILD_FEATURES, (FIRST, LAST))
    graph.run(names.TRAIN, None, AS_OF)
    graph.run(names.SCORE_AND_MONITOR, SCORED)
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


def test_the_lake_holds_every_good_row_once(walked: Graph) -> None:
    """Rows of the operational database are in the lake or in quarantine, none in both and none lost."""
    with connections.warehouse(walked.settings) as warehouse:
        (quarantined,) = warehouse.execute("select count(*) from quarantine.rows where source = 'flight_schedule'").fetchone() or (0,)
        (landed,) = warehouse.execute("select count(*) from raw.flight_schedule").fetchone() or (0,)
    days = (LAST - FIRST).days + 1

    assert quarantined == 2 * days
    assert landed == _source_rows(walked.settings) - quarantined


@pytest.mark.timeout(900)
def test_a_second_walk_changes_nothing(walked: Graph, digests: dict[str, str]) -> None:
    """The same commands again end with identical tables and the same live version."""
    live = ledger.live_version(walked.settings, MODEL)
    walked.run(names.BUILD_FEATURES, (FIRST, LAST))
    walked.run(names.TRAIN, None, AS_OF)
    walked.run(names.SCORE_AND_MONITOR, SCORED)

    assert walked.digests() == digests
    assert ledger.live_version(walked.settings, MODEL) == live


@pytest.mark.timeout(900)
def test_a_walk_killed_in_every_stage_ends_the_same(walked: Graph, digests: dict[str, str]) -> None:
    """A kill -9 in the middle of each stage, then the same command again, ends with identical tables."""
    kills = [walked.run_and_kill(job, INTERRUPTED if job == names.BUILD_FEATURES else SCORED, step) for job, step in STAGES]
    walked.run(names.BUILD_FEATURES, (FIRST, LAST))
    walked.run(names.SCORE_AND_MONITOR, SCORED)

    assert kills == [-signal.SIGKILL] * len(STAGES)
    assert walked.digests() == digests


def _source_rows(settings: Settings) -> int:
    import psycopg

    with psycopg.connect(settings.databases["airline_ops"].get_secret_value()) as operations:
        (rows,) = operations.execute(
            "select count(*) from flight_schedule where scheduled_departure_at >= %s and scheduled_departure_at < %s::date + 1",
            [FIRST, LAST],
        ).fetchone() or (0,)
    return int(rows)
