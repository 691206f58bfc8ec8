"""The database role of the how-to: the service does all that it has to with it, and the role can do nothing else."""

import re
from pathlib import Path
from secrets import token_hex

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from pipeline_assets.core.connections import online
from pipeline_assets.core.settings import Settings
from pipeline_assets.serving.realtime.access.callers import Role
from pipeline_assets_tests.served_models import INSTANCE, MODEL, ROWS, client_of, keep_departures, promote, put_live, service_of
from pipeline_assets_tests.stream_records import until

ROOT = Path(__file__).resolve().parents[5]
PAGE = (ROOT / "docs" / "how-to" / "protect-the-service.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```sql\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What the service has no need for, in warehouse and online store.
FORBIDDEN = {
    "warehouse": (
        "select from raw.prediction_log",
        "update ledger.promotions set version = 2",
        "delete from ledger.promotions",
        "create table ledger.mine (x int)",
        "create table public.mine (x int)",
        "create schema mine",
        "truncate ledger.promotions",
    ),
    "online": (
        "select from online.forgotten",
        "update online.feeds set status = 'gone'",
        "insert into online.offsets values (1, 0, 0)",
        "update online.served set model = 'x'",
        "create table online.mine (x int)",
        "drop table online.served",
    ),
}


@pytest.fixture
def store(isolated: Settings) -> Settings:
    """An online store of departures, two packages of the model of which the first is live, and a table that is none of the service's."""
    put_live(isolated, versions=2)
    with psycopg.connect(isolated.warehouse_dsn.get_secret_value()) as connection:
        connection.execute("create schema raw")
        connection.execute("create table raw.prediction_log (prediction_id text)")
    return isolated


@pytest.fixture
def reading(store: Settings, cluster: psycopg.Connection) -> Settings:
    """The settings with the role that the page makes, by its statements."""
    name, password = f"predictions_{token_hex(4)}", token_hex(16)
    found = {}
    blocks = BLOCK.findall(PAGE)
    for setting, owner, block in zip(("warehouse_dsn", "online_dsn"), ("warehouse", "online"), blocks, strict=True):
        known = conninfo_to_dict(getattr(store, setting).get_secret_value())
        text = block.replace("…", password).replace("predictions", name).replace(f"database {owner}", f"database {known['dbname']}")
        with psycopg.connect(make_conninfo(cluster.info.dsn, dbname=known["dbname"], password=cluster.info.password)) as connection:
            connection.execute(text)
        address = f"{known['host']}:{known['port']}"
        found[setting] = SecretStr(f"postgresql://{name}:{password}@{address}/{known['dbname']}")
    return store.model_copy(update=found)


def test_the_service_does_its_work_with_a_role_that_reads(store: Settings, reading: Settings, tmp_path: Path) -> None:
    """It predicts from the store, follows a promotion and a feed that is built anew, and keeps a sample of what it serves."""
    question = {**INSTANCE, "decision_at": ROWS[-1]["recorded_at"].isoformat()}
    with client_of(service_of(reading, tmp_path, MODEL), tmp_path, Role.PREDICT) as client:

        def ask() -> tuple[str, int]:
            (answer,) = client.post("/v1/models/flight_delay:predict", json={"instances": [question]}).json()["predictions"]
            return answer["features_from"], answer["model_version"]

        first = until(ask, lambda found: found[0] == "online")
        promote(store, MODEL, 2)
        second = until(ask, lambda found: found == ("online", 2))
        keep_departures(store)
        third = until(ask, lambda found: found == ("online", 2))
        for _ in range(200):
            client.post("/v1/features/flight_delay", json={"instances": [question] * 20})
        until(lambda: samples(store), lambda count: count > 0)

    assert (first, second, third) == (("online", 1), ("online", 2), ("online", 2))


def samples(settings: Settings) -> int:
    """How many vectors that were served are kept."""
    with online(settings) as connection:
        row = connection.execute("select count(*) from online.served").fetchone()
        return 0 if row is None else int(row[0])


@pytest.mark.parametrize("database", ["warehouse", "online"])
def test_the_role_can_do_nothing_else(reading: Settings, database: str) -> None:
    """Neither read what is none of the service's, nor change what it reads, nor make anything."""
    refused: list[str] = []
    for statement in FORBIDDEN[database]:
        with psycopg.connect(getattr(reading, f"{database}_dsn").get_secret_value()) as connection:
            try:
                connection.execute(statement)
            except psycopg.errors.InsufficientPrivilege:
                refused.append(statement)

    assert refused == list(FORBIDDEN[database])
