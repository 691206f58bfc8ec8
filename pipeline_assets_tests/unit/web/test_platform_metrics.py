"""The metrics of the platform as Prometheus reads them, and the dashboard that asks for them."""

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import PythonFileTarget
from prometheus_client.parser import text_string_to_metric_families

from pipeline_assets.core.settings import WebSettings
from pipeline_assets.serving.realtime.access.callers import Role
from pipeline_assets.serving.realtime.access.keyring import Keyring
from pipeline_assets.serving.realtime.access.opened import Access
from pipeline_assets.serving.realtime.access.sessions import Sessions, session_secret
from pipeline_assets.web.login import COOKIE, Login
from pipeline_assets.web.metrics import PlatformMetrics, Seen
from pipeline_assets.web.webserver import GuardedWebserver, Observations, look
from pipeline_assets_tests.guarded_apps import add_key, ask

DASHBOARD = Path(__file__).parents[3] / "docs" / "grafana" / "pipeline.json"
CODE = """
import dagster as dg


@dg.asset
def stock() -> dg.MaterializeResult:
    return dg.MaterializeResult()


@dg.asset_check(asset=stock)
def is_fresh() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN)


@dg.asset_check(asset=stock)
def never_judged() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


@dg.asset
def broken() -> None:
    raise RuntimeError("no")


defs = dg.Definitions(assets=[stock, broken], asset_checks=[is_fresh, never_judged])
"""
SEEN = Seen(
    runs={"STARTED": 1},
    loaded={"shop": True},
    checks={("a/b", 'odd " \n name'): (True, "ERROR")},
    materialized={"a/b": 1.0},
    observed={("a/b", "lag"): 7.0},
)

Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def values(text: bytes) -> Values:
    """Every sample of a text, by name and labels."""
    families = text_string_to_metric_families(text.decode())
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples}


@pytest.fixture
def process(tmp_path: Path) -> Iterator[WorkspaceProcessContext]:
    """A web server's view of a code location with an instance in which something has run."""
    (tmp_path / "code.py").write_text(CODE)
    target = PythonFileTarget(python_file=str(tmp_path / "code.py"), attribute=None, working_directory=None, location_name="shop")
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance, WorkspaceProcessContext(instance, target) as context:
        yield context


def test_runs_checks_assets_and_the_disk_are_seen_as_they_are(process: WorkspaceProcessContext, tmp_path: Path) -> None:
    """By state, by check with its severity, by asset with its time and observed numbers; a check that was never judged is not there."""
    instance = process.instance
    space: dict[str, Any] = {}
    exec(CODE, space)  # noqa: S102 - the own code of this test
    done = dg.materialize([space["stock"], space["is_fresh"]], instance=instance)
    dg.materialize([space["broken"]], instance=instance, raise_on_error=False)
    for lag in (7, 3):
        instance.report_runless_asset_event(dg.AssetObservation("stock", metadata={"lag_records": lag, "state": "well", "is_late": False}))

    found = values(PlatformMetrics(partial(look, process, Observations(process.instance.event_log_storage)), tmp_path).text())

    assert done.success
    assert found["pipeline_code_loaded", (("location", "shop"),)] == 1
    assert found["pipeline_runs", (("state", "SUCCESS"),)] == 1
    assert found["pipeline_runs", (("state", "FAILURE"),)] == 1
    assert found["pipeline_runs", (("state", "QUEUED"),)] == 0
    assert found["pipeline_check_failing", (("asset", "stock"), ("check", "is_fresh"), ("severity", "WARN"))] == 1
    assert [labels for name, labels in found if name == "pipeline_check_failing" and ("check", "never_judged") in labels] == []
    assert found["pipeline_asset_materialized_seconds", (("asset", "stock"),)] > 1.6e9
    observed = {dict(labels)["name"]: value for (name, labels), value in found.items() if name == "pipeline_asset_observed"}
    assert observed == {"lag_records": 3, "is_late": 0}
    assert 0 < found["pipeline_disk_bytes", (("part", "free"),)] <= found["pipeline_disk_bytes", (("part", "total"),)]


@pytest.mark.parametrize("is_planned_by", ["a run under way", "a run that died before its checks"])
def test_a_check_that_is_to_be_judged_again_is_shown_as_it_was_judged_last(
    process: WorkspaceProcessContext, tmp_path: Path, is_planned_by: str
) -> None:
    """Regression: whenever a run with checks was queued or under way there were no metrics at all, and for ever after one that died."""
    space: dict[str, Any] = {}
    exec(CODE, space)  # noqa: S102 - the own code of this test
    dg.materialize([space["stock"], space["is_fresh"]], instance=process.instance)
    job = dg.Definitions(
        assets=[space["stock"]], asset_checks=[space["is_fresh"], space["never_judged"]], jobs=[dg.define_asset_job("again", "*")]
    ).resolve_job_def("again")
    run = process.instance.create_run_for_job(job, asset_selection=None)
    if is_planned_by == "a run that died before its checks":
        process.instance.report_run_failed(run)

    found = values(PlatformMetrics(partial(look, process, Observations(process.instance.event_log_storage)), tmp_path).text())

    latest = process.instance.event_log_storage.get_latest_asset_check_execution_by_key(
        [dg.AssetCheckKey(dg.AssetKey("stock"), name) for name in ("is_fresh", "never_judged")]
    )
    assert [record.status.value for record in latest.values()] == ["PLANNED", "PLANNED"]
    checks = {dict(labels)["check"]: value for (name, labels), value in found.items() if name == "pipeline_check_failing"}
    assert checks == {"is_fresh": 1}


def test_code_that_cannot_be_loaded_is_seen(tmp_path: Path) -> None:
    """Regression: without its assets and checks the platform looked as well as one in which nothing fails."""
    (tmp_path / "code.py").write_text("raise RuntimeError('no')")
    target = PythonFileTarget(python_file=str(tmp_path / "code.py"), attribute=None, working_directory=None, location_name="shop")
    with (
        dg.instance_for_test(temp_dir=str(tmp_path)) as instance,
        pytest.warns(UserWarning, match="Error loading repository location shop"),
        WorkspaceProcessContext(instance, target) as context,
    ):
        found = values(PlatformMetrics(partial(look, context, Observations(context.instance.event_log_storage)), tmp_path).text())

    assert found["pipeline_code_loaded", (("location", "shop"),)] == 0
    assert not [name for name, _ in found if name == "pipeline_check_failing"]


def test_the_newest_observation_of_an_asset_stays_however_often_others_are_observed(process: WorkspaceProcessContext) -> None:
    """Regression: where many streams were observed, the online store and the service fell out of the newest observations of all.

    So at the first look, and at a later one between which and the one before it many were observed.
    """
    instance, observations = process.instance, Observations(process.instance.event_log_storage, most=10)

    def observe(asset: str, lag: int) -> None:
        instance.report_runless_asset_event(dg.AssetObservation(asset, metadata={"lag": lag}))

    def seen() -> dict[str, float]:
        return {asset: value for (asset, _), value in look(process, observations).observed.items()}

    def observe_much(lag: int) -> None:
        observe("stock", lag)
        for place in range(10):
            observe("broken", place)

    observe("of_no_code", 1)
    observe_much(7)
    first = seen()
    observe("stock", 3)
    found = [first, seen(), seen()]
    observe_much(5)

    assert found == [{"stock": 7, "broken": 9}, {"stock": 3, "broken": 9}, {"stock": 3, "broken": 9}]
    assert seen() == {"stock": 5, "broken": 9}


def test_they_are_served_behind_the_guard_of_the_pages(process: WorkspaceProcessContext, tmp_path: Path) -> None:
    """Without a login to this machine; with one to whoever has the key of a viewer. Another name of the host opens nothing."""
    file = tmp_path / "serve-keys.json"
    headers = [{}, *({"authorization": f"Bearer {add_key(file, role, role)}"} for role in (Role.PREDICT, Role.VIEWER))]
    keys = Keyring(file)
    login = Login(Access(keys=keys, sessions=Sessions(keys, session_secret(tmp_path), COOKIE), issuer=None))
    settings = WebSettings(home=tmp_path, web_hosts=("service.test",))
    bare, closed = (GuardedWebserver(process, settings, each).create_asgi_app() for each in (None, login))
    answer = ask(bare, "GET", "/metrics")

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert 'pipeline_runs{state="QUEUED"} 0.0' in answer.text
    assert ask(bare, "GET", "/metrics", headers={"host": "rebound.example"}).status_code == 421
    assert [ask(closed, "GET", "/metrics", headers=each).status_code for each in headers] == [401, 403, 200]


def test_it_is_looked_once_however_often_it_is_asked(tmp_path: Path) -> None:
    """A second question within 15 s is answered from the first look; foreign names break no line."""
    looks = list[int]()

    def seen() -> Seen:
        looks.append(1)
        return SEEN

    metrics = PlatformMetrics(seen, tmp_path)
    found = values(metrics.text())

    assert looks == [1]
    assert metrics.text() == metrics.text()
    assert looks == [1]
    assert found["pipeline_check_failing", (("asset", "a/b"), ("check", 'odd " \n name'), ("severity", "ERROR"))] == 1


def panels(dashboard: Any) -> Iterator[Any]:
    """Every panel that shows something."""
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            yield panel


def test_the_dashboard_asks_for_metrics_that_there_are(tmp_path: Path) -> None:
    """Each panel has a place, a title and a question whose every metric is one of ours; ids are unlike, and none names a data source."""
    dashboard = json.loads(DASHBOARD.read_text())
    known = {name for name, _ in values(PlatformMetrics(lambda: SEEN, tmp_path).text())}
    found = list(panels(dashboard))
    asked = [target["expr"] for panel in found for target in panel["targets"]]
    named = {name for question in asked for name in re.findall(r"\bpipeline_\w+", question)}

    assert named == known
    assert dashboard["schemaVersion"] >= 39
    assert dashboard["id"] is None
    assert dashboard["uid"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert all(panel["title"] and panel["datasource"]["uid"] == "${source}" for panel in found)
    assert [variable["type"] for variable in dashboard["templating"]["list"] if variable["name"] == "source"] == ["datasource"]
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    cells = [(x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_the_dashboard_is_green_only_where_something_is_known() -> None:
    """Regression: with the web server away, or its code not loaded, nothing was shown to fail. One panel alone has a value then, in red."""
    stats = [panel for panel in panels(json.loads(DASHBOARD.read_text())) if panel["type"] == "stat"]
    without = {panel["title"]: panel for panel in stats if "vector(" in panel["targets"][0]["expr"]}

    assert len(stats) > len(without)
    assert [panel["targets"][0]["expr"] for panel in without.values()] == ["min(pipeline_code_loaded) or vector(0)"]
    steps = without["Code that is loaded"]["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert steps == [{"color": "red", "value": None}, {"color": "green", "value": 1}]
