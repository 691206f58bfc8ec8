"""From an announced match to a forecast and its verdict: the second use case, beside the flights, from its sources to its monitors."""

from datetime import date

import polars as pl
import pytest

from pipeline_assets.core import connections, names
from pipeline_assets.core.settings import Settings, read_settings
from pipeline_assets.model_lifecycle.registry import ledger, versions
from pipeline_assets.processing.lake import tables
from pipeline_assets.use_cases.bundesliga.models import match_outcome
from pipeline_assets_tests.graph_runs import Graph
from simulator.bundesliga import data, messages

FIRST, LAST = date(2006, 7, 1), date(2007, 6, 30)
# Announcements of the spring, whose matches have ended by the summer.
SCORED = (date(2007, 3, 12), date(2007, 4, 30))
SUMMER = "2007-06-15T00:00:00+00:00"
MODEL = match_outcome
CLASSES = ("home", "draw", "away")


def _config(asset: names.AssetName, **values: str) -> dict[str, object]:
    return {"ops": {"__".join(asset): {"config": values}}}


@pytest.fixture(scope="module")
def played(stack: Settings, streams: Settings, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """A season of football: a model of what was known in summer, its forecasts of the spring, and how good they were."""
    assert stack.home == streams.home
    graph = Graph(settings=read_settings(stack.home), folder=tmp_path_factory.mktemp("dagster"))
    graph.load_world(date(2013, 1, 1), date(2013, 1, 1))
    graph.connect()
    graph.send_matches(FIRST, LAST)
    graph.settle()
    graph.run(names.UPDATE_FOLLOWED_TABLES, None)
    graph.run(names.build_features("bundesliga"), (FIRST, LAST))
    graph.run(names.train(MODEL.name), None, _config(names.training_set(MODEL.name), as_of=SUMMER))
    graph.run(names.score_and_monitor(MODEL.name), SCORED, _config(names.performance(MODEL.name), as_of=SUMMER))
    return graph


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("stream", "event_at"), [("league_fixtures", "announced_at"), ("league_results", "finished_at")])
def test_every_match_is_in_the_lake_once(played: Graph, stream: str, event_at: str) -> None:
    """A stream without a history: what was sent twice counts once, and what was broken is in quarantine."""
    known = data.matches().filter(pl.col(event_at).dt.date().is_between(FIRST, LAST))
    topic = messages.FIXTURES if stream == "league_fixtures" else messages.RESULTS
    broken = [one for one in messages.messages(FIRST, LAST) if one.topic == topic and one.is_broken]
    with connections.warehouse(played.settings) as warehouse:
        rows = warehouse.execute("select partition, reason from quarantine.rows where source = %s", [stream]).fetchall()

    assert tables.row_count(played.settings, names.lake(stream), FIRST, LAST) == known.height > 300
    assert len([reason for partition, reason in rows if partition == names.STREAM]) == len(broken) > 0
    assert [reason for partition, reason in rows if partition != names.STREAM] == []


@pytest.mark.timeout(900)
def test_each_announcement_gets_one_forecast_of_three_classes(played: Graph) -> None:
    """Keys of two integers, a class and its three probabilities, which add up to one; all by the live version."""
    query = "select season, match_number, predicted, model_version, score_home, score_draw, score_away from predictions.match_outcome"
    with connections.warehouse(played.settings) as warehouse:
        rows = warehouse.execute(query).fetchall()
    vectors = sum(batch.num_rows for batch in tables.read_days(played.settings, names.vectors(MODEL.name), *SCORED))

    assert len(rows) == len({row[:2] for row in rows}) == vectors > 50
    assert {type(part) for row in rows for part in row[:2]} == {int}
    assert {row[3] for row in rows} == {ledger.live_version(played.settings, MODEL)}
    assert all(abs(sum(row[4:]) - 1) < 1e-6 and row[2] == CLASSES[row[4:].index(max(row[4:]))] for row in rows)


@pytest.mark.timeout(900)
def test_labels_count_once_they_have_matured(played: Graph) -> None:
    """The hold-out ends three weeks before training was asked for, and monitors judge every day whose matches have ended."""
    version = ledger.live_version(played.settings, MODEL)
    assert version is not None
    contract = versions.load(played.settings, MODEL, version).scorer.contract
    with connections.warehouse(played.settings) as warehouse:
        days = warehouse.execute("select scores, labels, log_loss from monitor.match_outcome_performance").fetchall()

    assert str(contract.blocks[-1].end) == "2007-05-24 00:00:00+00:00"
    assert contract.classes == CLASSES
    assert all(scores == labels for scores, labels, _ in days)
    assert all(loss > 0 for _, labels, loss in days if labels >= MODEL.monitor.min_labels)


@pytest.mark.timeout(900)
def test_a_followed_table_is_joined_into_a_daily_one(played: Graph) -> None:
    """A match knows whether its home club was a founder, which stands in the table of clubs."""
    founders = set(data.clubs().filter(pl.col("first_season") == 1963)["club_id"].to_list())
    with connections.warehouse(played.settings) as warehouse:
        rows = warehouse.execute("select home_id, is_founder_at_home from cleaned.fixtures").fetchall()

    assert {home in founders for home, _ in rows} == {True, False}
    assert [(home, is_founder) for home, is_founder in rows if is_founder != (home in founders)] == []
