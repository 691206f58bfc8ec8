"""The as-of join of Feast with its DuckDB offline store, in an environment of its own; started by `benchmarks/features.py`.

    python feast_as_of.py FOLDER ROUNDS

FOLDER holds `rows.parquet` (key, event_at, value) and `requests.parquet` (key, decision_at, number). Writes `answer.parquet` (number,
value) there, and prints the seconds of the fastest round.
"""

import sys
import time
from datetime import timedelta
from pathlib import Path

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType  # type: ignore[import-not-found]
from feast.repo_config import RepoConfig  # type: ignore[import-not-found]
from feast.types import Float64  # type: ignore[import-not-found]

VIEW, KEY, DECISION_AT = "view", "key", "event_timestamp"


def feature_store(folder: Path) -> FeatureStore:
    """A store with one feature view over the rows."""
    store = FeatureStore(
        config=RepoConfig(
            project="bench",
            provider="local",
            registry=str(folder / "registry.db"),
            offline_store={"type": "duckdb"},
            online_store=None,
            entity_key_serialization_version=3,
        )
    )
    entity = Entity(name=KEY, join_keys=[KEY], value_type=ValueType.STRING)
    source = FileSource(path=str(folder / "rows.parquet"), timestamp_field="event_at")
    schema = [Field(name="value", dtype=Float64)]
    store.apply([entity, FeatureView(name=VIEW, entities=[entity], ttl=timedelta(days=400), schema=schema, source=source, online=False)])
    return store


def main(folder: Path, rounds: int) -> None:
    """Asks some times, and keeps the last answer."""
    store = feature_store(folder)
    asked = pd.read_parquet(folder / "requests.parquet").rename(columns={"decision_at": DECISION_AT})
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        answer = store.get_historical_features(entity_df=asked, features=[f"{VIEW}:value"]).to_df()
        seconds.append(time.perf_counter() - start)
    answer[["number", "value"]].to_parquet(folder / "answer.parquet")
    print(min(seconds))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
