"""Runs of the real asset graph in a process of their own, as `dagster job execute` makes them, with a way to kill one in the middle."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path

import dagster as dg
import polars as pl
import psycopg
import yaml
from psycopg.sql import SQL, Identifier

from pipeline_assets.core import connections, names
from pipeline_assets.core.declarations import load_project
from pipeline_assets.core.names import AssetName
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.streaming.capture.connect import Connect, open_connect
from pipeline_assets.ingestion.streaming.capture.connectors import topics_of
from pipeline_assets.ingestion.streaming.health.watch import Watch, look
from pipeline_assets.local_stack.simulator import write_client_properties
from pipeline_assets.processing.lake import tables
from pipeline_assets_tests import forked_runs
from pipeline_assets_tests.stack_env import write_stack_env
from pipeline_assets_tests.stack_services import create_database
from pipeline_assets_tests.stream_records import until

Days = tuple[date, date]
RunConfig = Mapping[str, object]

PROJECT = load_project()
# The use case whose tables are compared before and after a second walk with kills.
FLIGHTS = Project(use_cases=(PROJECT.use_case("nyc_flights"),), tables=PROJECT.tables)
ROOT = Path(__file__).resolve().parents[1]
# When a row was written, and by which run, may differ between two runs that are otherwise equal.
BOOKKEEPING = {"_loaded_at", "run_id", "scored_at"}


@dataclass(frozen=True, kw_only=True)
class Graph:
    """The asset graph on the services of `settings`, with a Dagster instance in `folder`."""

    settings: Settings
    folder: Path

    def __post_init__(self) -> None:
        """Gives the instance a database of its own, as SQLite stores the thousands of events of a season one by one."""
        dsn = create_database(self.settings.home, self.settings.dagster_dsn).get_secret_value()
        storage = yaml.safe_load((ROOT / "dagster.yaml").read_text())["storage"]
        storage["custom"]["config"]["postgres_url"] = dsn.replace("postgresql://", "postgresql+psycopg2://", 1)
        (self.folder / "dagster.yaml").write_text(yaml.safe_dump({"storage": storage}))

    def load_world(self, first: date, last: date, stream_from: date | None = None) -> None:
        """Fills the databases: of the airports with the days `first` to `last`, from `stream_from` on without events, and of the league."""
        seam = ["--stream-from", str(stream_from)] if stream_from is not None else []
        self._simulate("nyc_flights.database", "--first", str(first), "--last", str(last), *seam)
        self._simulate("bundesliga.database")

    def send_events(self, first: date, last: date) -> None:
        """Sends to the topics of departures and arrivals what happened on the days `first` to `last`."""
        self._simulate("nyc_flights.events", *self._span(first, last))

    def send_matches(self, first: date, last: date) -> None:
        """Sends to the topics of the league what was announced and what ended on the days `first` to `last`."""
        self._simulate("bundesliga.events", *self._span(first, last))

    def _span(self, first: date, last: date) -> tuple[str, ...]:
        config = str(write_client_properties(self.settings))
        return ("--bootstrap", self.settings.kafka_bootstrap, "--config", config, "--first", str(first), "--last", str(last))

    def connect(self) -> None:
        """Has the connectors run, and what they bring typed, every row of the followed tables included."""
        self.run(names.APPLY_CONNECTORS, None)
        self.run(names.TYPE_RECORDS, None)

    def settle(self) -> None:
        """Returns once all that is in the topics has landed and is typed."""
        with open_connect(self.settings) as connect:
            until(lambda: self._lags(connect), lambda lags: set(lags) == set(topics_of(PROJECT)) and not any(lags.values()))
        self.run(names.TYPE_RECORDS, None)

    def _lags(self, connect: Connect) -> dict[str, int]:
        """How many records of each topic have not landed, by the topics of which any has."""
        watch = Watch(now=datetime.now(UTC))
        look(self.settings, connect, PROJECT, watch)
        landing = {topic: watch.seen.get(names.connector(names.landing_connector(topic))) for topic in topics_of(PROJECT)}
        return {topic: int(seen.numbers["lag"]) for topic, seen in landing.items() if seen is not None}

    def _simulate(self, program: str, *arguments: str) -> None:
        command = [sys.executable, "-m", f"simulator.{program}", *arguments]
        subprocess.run(command, cwd=ROOT, env=self.environment(), check=True, capture_output=True, timeout=120)

    def run(self, job: str, days: Days | None, config: RunConfig | None = None) -> None:
        """Runs a job to its end; an AssertionError shows the last of its log where it failed."""
        tags = names.range_tags(*days) if days is not None else {}
        run = self._start(["job", "execute", "-j", job, "--tags", json.dumps(tags)], config)
        assert run.wait(seconds=280) == 0, run.log.read_text()[-6000:]

    def materialize_and_kill(self, asset: AssetName, days: Days | None) -> int:
        """Materializes an asset, kills the run with SIGKILL once its step has begun, and gives the exit code of the process."""
        by_day = ["--partition-range", f"{days[0]}...{days[1]}"] if days is not None else []
        run = self._start(["asset", "materialize", "--select", "/".join(asset), *by_day], None)
        begun = run.comes_to("STEP_START")
        run.process.kill()
        code = run.wait(seconds=30)
        assert begun, f"The step of {asset} never began: {run.log.read_text()[-6000:]}"
        return code

    def tick(self, sensor: dg.SensorDefinition) -> dg.SensorResult:
        """What a sensor requests at its first tick; an AssertionError says why where it skips."""
        write_stack_env(self.settings, self.folder)
        with dg.DagsterInstance.from_config(str(self.folder)) as instance:
            answer = sensor(dg.build_sensor_context(instance=instance, resources={"platform": Platform(home=str(self.folder))}))
        assert isinstance(answer, dg.SensorResult), answer
        return answer

    def digests(self) -> dict[str, str]:
        """The content of every table that the graph made, as a hash of its sorted rows."""
        return {**self._lake_digests(), **self._warehouse_digests()}

    def _start(self, command: list[str], config: RunConfig | None) -> forked_runs.Run:
        config_file = self.folder / "run.yaml"
        config_file.write_text(yaml.safe_dump(dict(config or {})))
        # Its folder is not the project: Dagster would read the `.env` of the developer's stack there.
        return forked_runs.start([*command, "-m", "pipeline_assets.definitions", "-c", str(config_file)], self.folder, self.environment())

    def environment(self) -> dict[str, str]:
        """The environment of a process that runs the graph."""
        roles = {"DATABASES": self.settings.databases, "OWNERS": self.settings.owners}
        secrets = {f"PIPELINE_{role}__{name.upper()}": dsn.get_secret_value() for role, dsns in roles.items() for name, dsn in dsns.items()}
        return {
            **os.environ,
            "PIPELINE_HOME": str(self.settings.home),
            "DAGSTER_HOME": str(self.folder),
            "DAGSTER_EVENT_BATCH_SIZE": "500",
            "DAGSTER_EMIT_PARTITION_SUBSET_IN_PLANNED_EVENTS": "true",
            **secrets,
        }

    def _lake_digests(self) -> dict[str, str]:
        landed = [names.lake(contract.name) for contract, _ in FLIGHTS.lake_contracts]
        made = [*(names.features(view.name) for view in FLIGHTS.views), *(names.vectors(model.name) for model in FLIGHTS.models)]
        read = {".".join(table): pl.from_arrow(tables.read_all(self.settings, table).read_all()) for table in landed + made}
        return {f"lake:{name}": _digest(frame) for name, frame in read.items() if isinstance(frame, pl.DataFrame)}

    def _warehouse_digests(self) -> dict[str, str]:
        schemas = [names.RAW, names.CLEANED, names.PREDICTIONS, names.MONITOR]
        with connections.warehouse(self.settings) as warehouse:
            listed = warehouse.execute(
                "select schemaname, tablename from pg_tables where schemaname = any(%s) order by 1, 2", [schemas]
            ).fetchall()
            return {f"warehouse:{schema}.{table}": _warehouse_digest(warehouse, Identifier(schema, table)) for schema, table in listed}


def vectors_between(settings: Settings, first: date, last: date) -> int:
    """How many vectors the feature store holds of the days `first` to `last`, of the first model."""
    return sum(batch.num_rows for batch in tables.read_days(settings, names.vectors(FLIGHTS.models[0].name), first, last))


def _warehouse_digest(warehouse: psycopg.Connection, table: Identifier) -> str:
    """Rows and hash of a table of the warehouse, whatever the order of its rows."""
    query = SQL(
        "select count(*), md5(string_agg(kept, ',' order by kept)) from (select (to_jsonb(t) - %s::text[])::text as kept from {} t) as rows"
    )
    rows, digest = warehouse.execute(query.format(table), [list(BOOKKEEPING)]).fetchone() or (0, "")
    return f"{rows} rows, {digest}"


def _digest(frame: pl.DataFrame) -> str:
    """Rows and hash of a frame, whatever the order of its rows and columns."""
    columns = sorted(set(frame.columns) - BOOKKEEPING)
    ordered = frame.select(pl.col(column).cast(pl.String) for column in columns).sort(columns)
    return f"{len(frame)} rows, {sha256(ordered.write_csv().encode()).hexdigest()[:16]}"
