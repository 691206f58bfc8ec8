"""Models as the running service answers with them, in Dagster: looked at over HTTP with a key, judged, recorded."""

from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pytest

from pipeline_assets.core import names
from pipeline_assets.core.resources import Platform, key
from pipeline_assets.core.settings import STACK_ENV, Settings
from pipeline_assets.serving.realtime.access.callers import Role
from pipeline_assets.serving.realtime.health.assets import is_served
from pipeline_assets.serving.realtime.health.judge import LOGGED, RULES
from pipeline_assets.serving.realtime.health.sensors import endpoint_health
from pipeline_assets_tests.served_models import INSTANCE, MODEL, ROWS, client_of, put_live, service_of
from pipeline_assets_tests.stream_records import until

NOWHERE = "127.0.0.1:9"
ASSET = key(names.endpoint(MODEL.name))
KNOWN = {**INSTANCE, "decision_at": ROWS[-1]["recorded_at"].isoformat()}


@pytest.fixture
def store(isolated: Settings) -> Settings:
    """An online store of departures, and a version of the model that is live."""
    return put_live(isolated)


def point_at(platform: Platform, url: str, text: str) -> None:
    """Has the settings of the platform name a service, and a key for it."""
    with (Path(platform.home) / STACK_ENV).open("a") as file:
        file.write(f"PIPELINE_SERVE_URL={url}\nPIPELINE_SERVE_READ_KEY={text}\n")


def key_of(client: httpx.Client) -> str:
    """The key that a client has."""
    return client.headers["Authorization"].removeprefix("Bearer ")


def overview(client: httpx.Client) -> dict[str, Any]:
    """What a process says of the model over all of them."""
    found: dict[str, Any] = client.get("/v1/service").json()["models"][MODEL.name]
    return found


def evaluated(platform: Platform) -> dict[str, dg.AssetCheckEvaluation]:
    """The checks of the model, evaluated now, by name."""
    result = dg.materialize(
        [is_served([MODEL], {})],
        resources={"platform": platform},
        selection=dg.AssetSelection.checks_for_assets(ASSET),
        raise_on_error=True,
    )
    return {one.check_name: one for one in result.get_asset_check_evaluations()}


def look(platform: Platform, cursor: str | None) -> dg.SensorResult:
    """A tick of the sensor."""
    found = endpoint_health([MODEL], {})(dg.build_sensor_context(cursor=cursor, resources={"platform": platform}))
    assert isinstance(found, dg.SensorResult)
    return found


def test_what_the_service_does_is_recorded_until_it_is_down(platform: Platform, store: Settings, tmp_path: Path) -> None:
    """Ten predictions without Kafka: traffic, latency and freshness are on the asset, one check fails; its end is recorded at once."""
    service = service_of(store.model_copy(update={"kafka_bootstrap": NOWHERE}), tmp_path, MODEL)
    with client_of(service, tmp_path, Role.PREDICT, Role.READ) as client:
        point_at(platform, str(client.base_url), key_of(client))
        for _ in range(10):
            assert client.post(f"/v1/models/{MODEL.name}:predict", json={"instances": [KNOWN]}).status_code == 200
        until(lambda: service.log.counts().away_since)
        up, first = evaluated(platform), look(platform, None)
        second = look(platform, first.cursor)
    third, down = look(platform, first.cursor), evaluated(platform)
    (observed,) = [one for one in first.asset_events if isinstance(one, dg.AssetObservation)]
    numbers = {name: value.value for name, value in observed.metadata.items()}
    gone = [one for one in third.asset_events if isinstance(one, dg.AssetCheckEvaluation)]

    assert {name: one.passed for name, one in up.items()} == {rule.name: rule.name != LOGGED for rule in RULES}
    assert "10 predictions wait on disk" in str(up[LOGGED].metadata["problem"].value)
    assert (numbers["requests"], numbers["version"], numbers["live_version"], numbers["fallback_share"]) == (10, "1", 1, 0.0)
    assert 0 < float(str(numbers["p50_ms"])) <= float(str(numbers["p99_ms"]))
    assert f"age_seconds {MODEL.views[0].name}" in numbers
    assert list(second.asset_events) == []
    assert [one.passed for one in gone] == [False] * len(RULES)
    assert "does not answer" in str(down["is_up"].metadata["problem"].value)
    assert "pipeline up" in str(down["is_up"].metadata["what to do"].value)


def test_a_key_that_may_not_read_is_named(platform: Platform, store: Settings, tmp_path: Path) -> None:
    """The check says that the key is refused, and how to make one."""
    with client_of(service_of(store, tmp_path, MODEL), tmp_path, Role.PREDICT) as client:
        point_at(platform, str(client.base_url), key_of(client))
        found = evaluated(platform)["is_up"]

    assert not found.passed
    assert "refuses the key" in str(found.metadata["problem"].value)
    assert "PIPELINE_SERVE_READ_KEY" in str(found.metadata["what to do"].value)


def test_without_a_service_the_sensor_is_quiet(platform: Platform) -> None:
    """Where no address is set it skips with the name of the setting."""
    found = endpoint_health([MODEL], {})(dg.build_sensor_context(resources={"platform": platform}))

    assert isinstance(found, dg.SkipReason)
    assert "PIPELINE_SERVE_URL" in str(found.skip_message)


def test_each_process_answers_for_both(store: Settings, tmp_path: Path) -> None:
    """Three predictions of one and two of the other: metrics of either have both by their label, the overview of either has five."""
    first, second = (service_of(store, tmp_path, MODEL, serve_workers=2) for _ in range(2))
    roles = (Role.PREDICT, Role.READ)
    with client_of(first, tmp_path, *roles) as one_client, client_of(second, tmp_path, *roles) as other_client:
        clients = (one_client, other_client)
        for client, count in zip(clients, (3, 2), strict=True):
            for _ in range(count):
                client.post(f"/v1/models/{MODEL.name}:predict", json={"instances": [KNOWN]})
        seen = [until(partial(overview, client), lambda found: found["requests"] == 5) for client in clients]
        texts = [client.get("/metrics").text for client in clients]

    assert [one["answered"] for one in seen] == [5, 5]
    assert [one["versions"] for one in seen] == [[1], [1]]
    for text in texts:
        lines = [line for line in text.splitlines() if line.startswith("predict_requests_total{")]
        assert sorted(float(line.split()[-1]) for line in lines) == [2.0, 3.0]
        assert {'worker="0"', 'worker="1"'} == {
            part for line in lines for part in line[line.index("{") + 1 : line.index("}")].split(",") if "worker" in part
        }
