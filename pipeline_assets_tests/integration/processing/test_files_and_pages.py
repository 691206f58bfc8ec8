"""Sources of other kinds than tables and topics, from their declaration to a feature, by the assets that they are."""

import gzip
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from pydantic import SecretStr

from pipeline_assets.core import names
from pipeline_assets.core.columns import cleaned_models
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform, key
from pipeline_assets.core.setting_values import FileFolder
from pipeline_assets.core.settings import PREFIX, Settings
from pipeline_assets.ingestion.batch import assets as batch
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.processing.cleaning import assets as cleaning
from pipeline_assets.processing.features import assets as features
from pipeline_assets.processing.lake import assets as lake
from pipeline_assets.processing.lake import tables
from pipeline_assets_tests.kiosks import FOLDER, MODELS, SERVICE, kiosk, sales, takings, temperatures, weather
from pipeline_assets_tests.library import dbt_project_of
from pipeline_assets_tests.readings import Answer, Api, day, serving
from pipeline_assets_tests.stack_env import write_stack_env
from pipeline_assets_tests.stream_records import without_sensors
from pipeline_assets_tests.unit.ingestion.batch.test_rest_kinds import answered

NOON = datetime(2013, 5, 2, 12, tzinfo=UTC)
SALES = {
    "sales/2013-05-01/till-1.csv.gz": "sale_id;kiosk;price;sold_at;recorded_at\n1;pier;2.50;2013-05-01T20:00:00Z;2013-05-01T20:00:05Z\n",
    "sales/2013-05-02/till-1.csv.gz": (
        "kiosk;sale_id;price;sold_at;recorded_at\r\n"
        'pier;2;0.10;2013-05-02T10:00:00Z;2013-05-02T10:00:01Z\r\n"pier";3;0.20;2013-05-02T11:00:00+00:00;2013-05-02T11:00:01Z\r\n'
        "pier;4;1e400;2013-05-02T11:30:00Z;2013-05-02T11:30:01Z\r\npier;5;-;2013-05-02T12:00:00Z;2013-05-02T12:00:00Z\r\n"
    ),
    "sales/2013-05-02/till-2.csv.gz": "sale_id;kiosk;price;sold_at;recorded_at\n6;beach;9.99;2013-05-02T12:00:00Z;2013-05-02T12:00:00Z\n",
}
PAGE_ROWS = 2


def measured(hour: int, degrees: float, place: str = "pier") -> dict[str, Any]:
    """A temperature, published ten minutes after it was measured."""
    at = NOON.replace(hour=hour)
    return {"kiosk": place, "temperature": degrees, "measured_at": at.isoformat(), "published_at": (at + timedelta(minutes=10)).isoformat()}


MEASURED = [measured(8, 17.5), measured(9, 19), measured(10, -999), measured(11, 24.5, "beach"), measured(13, 30)]


def thermometer(api: Api, query: dict[str, str]) -> Answer:
    """The temperatures of the second of May by pages, for those who have the token."""
    if api.headers[-1].get("authorization") != "Bearer ice":
        return 401, {}, b"{}"
    start = (int(query["page"]) - 1) * PAGE_ROWS
    found = MEASURED if api.paths[-1].endswith("/2013/05/02") else []
    return answered({"data": {"items": found[start : start + PAGE_ROWS]}})


def graph(folder: Path) -> dg.Definitions:
    """The rooms from ingestion to features, of the kiosks alone, with a dbt project of their own."""
    dbt_project_of(folder, Project(use_cases=(kiosk,)), MODELS, {})
    project = Project(use_cases=(kiosk,), tables=cleaned_models(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"{PREFIX}DBT_PROJECT", str(folder))
        rooms = (without_sensors(batch.defs(project)), *(room.defs(project) for room in (lake, cleaning, features)))
        return dg.Definitions.merge(*rooms)


def materialized(definitions: dg.Definitions, platform: Platform) -> dg.ExecuteInProcessResult:
    """Two days of all that leads to the features."""
    chosen = dg.AssetSelection.assets(key(names.features(takings.name)), key(names.features(weather.name))).upstream()
    return dg.materialize(
        [asset for asset in definitions.assets or () if isinstance(asset, dg.AssetsDefinition)],
        selection=chosen,
        resources={**(definitions.resources or {}), "platform": platform},
        tags=names.range_tags(day(0), day(1)),
    )


def test_a_folder_of_csv_files_and_an_api_with_pages_become_features(isolated: Settings, tmp_path: Path) -> None:
    """Declared, staged, published, cleaned and computed: as of each sale, sentinels as null, a broken line in quarantine."""
    inbox = tmp_path / "inbox"
    for path, text in SALES.items():
        (inbox / path).parent.mkdir(parents=True, exist_ok=True)
        (inbox / path).write_bytes(gzip.compress(text.encode()))
    with serving(isolated, thermometer) as (_, settings):
        service = settings.services[SERVICE].model_copy(update={"api_key": None, "token": SecretStr("ice")})
        folders = {FOLDER: FileFolder(url=inbox.as_uri())}
        own = settings.model_copy(update={"services": {**settings.services, SERVICE: service}, "folders": folders})
        write_stack_env(own, tmp_path)
        result = materialized(graph(tmp_path / "project"), Platform(home=str(tmp_path)))

    assert result.success
    taken, warm = ({row["decision_at"]: row for row in rows(own, view.name) if row["kiosk"] == "pier"} for view in (takings, weather))
    at_noon, before = taken[NOON], taken[NOON - timedelta(hours=1)]
    assert (at_noon["kiosk_takings__taken_3h"], at_noon["kiosk_takings__sales_1d"]) == (0.30000000000000004, 4)
    assert (before["kiosk_takings__taken_3h"], before["kiosk_takings__sales_1d"]) == (0.1, 2)
    assert (warm[NOON]["kiosk_weather__temperature"], warm[NOON]["kiosk_weather__warmest_1d"]) == (None, 19.0)
    assert [(row.place, row.field, row.reason) for row in quarantine.listed(own, source=sales.contract.name)] == [
        ("sales/2013-05-02/till-1.csv.gz:4", "price", "out of range")
    ]
    assert quarantine.listed(own, source=temperatures.contract.name) == []


def rows(settings: Settings, view: str) -> list[dict[str, Any]]:
    """The rows of a feature table in the lake."""
    found: list[dict[str, Any]] = tables.read_all(settings, names.features(view)).read_all().to_pylist()
    return found
