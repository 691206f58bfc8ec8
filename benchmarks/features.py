"""How long the feature kernel takes, beside DuckDB on the same work in the same run.

    python -m benchmarks.features

Four measurements, each the best of some rounds in which both sides take turns, with the answers compared row by row:
all views over all flights; the windowed features against DuckDB's range windows; the same where rows were corrected, against themselves
without corrections and against DuckDB's join over versions; the as-of join against DuckDB's ASOF LEFT JOIN, and beside Feast's DuckDB
offline store, which gets an environment of its own and one round.
"""

import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_assets.core import names
from pipeline_assets.core.project import views_of
from pipeline_assets.processing.features.as_of import as_of_join
from pipeline_assets.processing.features.columns import DECISION_AT
from pipeline_assets.processing.features.hops import hop_of
from pipeline_assets.processing.features.timeline import Columns
from pipeline_assets.processing.features.view import view_features
from pipeline_assets.spec.features import FeatureView, Windowed
from pipeline_assets.use_cases.nyc_flights import use_case
from simulator.nyc_flights import data

ROUNDS = 3
TOLERANCE = 1e-9
LATE_FROM_MINUTES = 15
FEAST, PEER = "0.67.0", Path(__file__).parent / "peers" / "feast_as_of.py"
FEATURE_ROWS, REQUESTS, KEYS = 1_000_000, 200_000, 5_000
MICROSECOND = timedelta(microseconds=1)
SQL = {
    "count": "count({0})",
    "sum": "sum({0})",
    "mean": "avg({0})",
    "rate": "avg({0}::int)",
    "variance": "var_samp({0})",
    "stddev": "stddev_samp({0})",
    "min": "min({0})",
    "max": "max({0})",
    "last": "arg_max({0}, place)",
    "time_since_last": "(moment - max(CASE WHEN {0} IS NOT NULL THEN moment END) OVER {1}) / 1e6",
}


# Of a window over versions in a join; the others of SQL need the order of a window.
VERSIONS_SQL = {name: call for name, call in SQL.items() if name not in {"last", "time_since_last"}}
CORRECTED_SHARE, MOST_CORRECTIONS = 0.1, 3


def best_of(*runs: Callable[[], pa.Table], rounds: int = ROUNDS) -> tuple[list[float], list[pa.Table]]:
    """The shortest time of each run in seconds, and its answer; the runs take turns."""
    seconds, answers = [float("inf")] * len(runs), [pa.table({}) for _ in runs]
    for _ in range(rounds):
        for place, run in enumerate(runs):
            start = time.perf_counter()
            answers[place] = run()
            seconds[place] = min(seconds[place], time.perf_counter() - start)
    return seconds, answers


def flight_tables() -> tuple[pa.Table, dict[str, pa.Table]]:
    """The observations and the cleaned tables of the use case, over all days, straight from the data."""
    flights = data.flights()
    history = data.flight_history(flights).with_columns(known_at="recorded_at")
    late = (pl.col("delay_minutes") >= LATE_FROM_MINUTES).fill_null(True)
    events = {
        "departures_history": history.filter(pl.col("event_type") == "departure").with_columns(is_late=late),
        "arrivals_history": history.filter(pl.col("event_type") == "arrival").with_columns(is_late=late),
        "weather_observations_history": data.weather().with_columns(known_at="published_at"),
        "aircraft_history": data.planes().with_columns(known_at="updated_at"),
    }
    asked = flights.with_columns((pl.col("scheduled_departure_at") - pl.duration(minutes=60)).alias(DECISION_AT))
    superseded_at = pl.lit(None, pl.Datetime("us", "UTC"))
    return asked.to_arrow(), {name: frame.with_columns(superseded_at=superseded_at).to_arrow() for name, frame in events.items()}


def range_windows(view: FeatureView) -> str:
    """The windowed features of the view in SQL, one row a request in the order of its number; rows are known when they happen."""
    keys, source = ", ".join(view.entity.keys), view.source
    columns = sorted({feature.column for feature in view.features if feature.column is not None})
    order = ", ".join((source.event_at, source.known_at, *source.order_by))
    selected, frames = _calls(view), _frames(view)
    return f"""
        WITH rows_in_time AS (
            SELECT {keys}, epoch_us({source.event_at}) AS moment, {", ".join((*columns, "1 AS one"))},
                row_number() OVER (ORDER BY {order}) AS place, NULL::bigint AS number
            FROM events WHERE ({keys}) IS NOT NULL
            UNION ALL BY NAME SELECT {keys}, epoch_us({DECISION_AT}) AS moment, number FROM requests
        ), answered AS (SELECT number, {", ".join(selected)} FROM rows_in_time WINDOW {", ".join(frames)})
        SELECT * EXCLUDE number FROM answered WHERE number IS NOT NULL ORDER BY number
    """  # noqa: S608 - names from the declarations, in a database of its own


def _windows(view: FeatureView) -> list[tuple[Windowed, timedelta, str]]:
    """Each windowed feature with each of its windows, and the name of its frame in SQL."""
    windowed = [(feature, window) for feature in view.features if isinstance(feature, Windowed) for window in feature.windows]
    return [(feature, window, f"w{names.span(window)}_{names.span(hop_of(window, feature.hop))}") for feature, window in windowed]


def _calls(view: FeatureView) -> list[str]:
    calls = []
    for feature, window, frame in _windows(view):
        call = SQL[feature.aggregate].format(feature.column or "one", frame)
        over = call if " OVER " in call else f"{call} OVER {frame}"
        calls.append(f"{over} AS {names.feature(view.name, feature.name, window)}")
    return calls


def _frames(view: FeatureView) -> set[str]:
    """Times lie after 1970, where the integer division of DuckDB is a floor."""
    frames = set()
    for feature, window, frame in _windows(view):
        span, hop = window // MICROSECOND, hop_of(window, feature.hop) // MICROSECOND
        start = f"(moment - (moment - {span}) // {hop} * {hop}) PRECEDING"
        keys = ", ".join(view.entity.keys)
        frames.add(f"{frame} AS (PARTITION BY {keys} ORDER BY moment RANGE BETWEEN {start} AND CURRENT ROW)")
    return frames


def only_windows(view: FeatureView) -> FeatureView:
    """What range windows can express of the view: no latest values, and rows that are known when they happen."""
    windowed = tuple(feature for feature in view.features if isinstance(feature, Windowed))
    return replace(view, features=windowed, source=replace(view.source, known_at=view.source.event_at))


def greatest_difference(ours: pa.Table, theirs: pa.Table) -> float:
    """The greatest difference of any value, relative where values are above 1; infinite where one is null and the other is not."""
    worst = 0.0
    for name in ours.column_names:
        left, right = (table.column(name).cast(pa.float64()).to_numpy() for table in (ours, theirs))
        if not np.array_equal(np.isnan(left), np.isnan(right)):
            return float("inf")
        if not np.isnan(left).all():
            worst = max(worst, float(np.nanmax(np.abs(left - right) / np.maximum(np.abs(right), 1.0))))
    return worst


def measure_views(requests: pa.Table, events: dict[str, pa.Table]) -> None:
    """Prints the time of every view, and of all together."""
    total = 0.0
    for view in views_of(use_case):
        (seconds,), (answer,) = best_of(partial(view_features, view, requests, events[view.source.name]))
        total += seconds
        print(f"  {view.name:22} {answer.num_rows:9,} rows {answer.num_columns:3} features {seconds:7.3f} s")
    print(f"  all views              {total:7.3f} s (goal: at most 5 s)")


def _run(connection: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    return connection.sql(query).to_arrow_table()


def measure_windows(requests: pa.Table, events: dict[str, pa.Table]) -> None:
    """Prints the time of the windowed features beside that of DuckDB's range windows."""
    ours, theirs, worst = 0.0, 0.0, 0.0
    asked = requests.append_column("number", pa.array(range(requests.num_rows)))
    for view in map(only_windows, views_of(use_case)):
        if view.features:
            connection = duckdb.connect()
            connection.register("requests", asked)
            connection.register("events", events[view.source.name])
            (kernel, sql), answers = best_of(
                partial(view_features, view, requests, events[view.source.name]), partial(_run, connection, range_windows(view))
            )
            difference = greatest_difference(*answers)
            ours, theirs, worst = ours + kernel, theirs + sql, max(worst, difference)
            print(f"  {view.name:22} kernel {kernel:7.3f} s, DuckDB {sql:7.3f} s, ratio {sql / kernel:6.1f}, difference {difference:.1e}")
    print(f"  all windows            kernel {ours:7.3f} s, DuckDB {theirs:7.3f} s, ratio {theirs / ours:6.1f} (goal: at least 10)")
    if worst > TOLERANCE:
        raise SystemExit(f"Answers differ by {worst:.1e}, more than {TOLERANCE:.0e}.")


def with_versions(view: FeatureView, events: pa.Table) -> tuple[FeatureView, pa.Table]:
    """The view and its events, of which every tenth was corrected one to three times in the two days after it was known."""
    random, source = np.random.default_rng(10), view.source
    rows = pl.DataFrame(events).with_row_index("row")
    corrected = random.random(len(rows)) < CORRECTED_SHARE
    versions = np.where(corrected, random.integers(1, MOST_CORRECTIONS + 1, len(rows)), 0)
    changes = pl.DataFrame({"row": np.repeat(np.arange(len(rows)), versions), "after": random.integers(1, 2 * 86_400, versions.sum())})
    added = changes.unique().with_columns(pl.col("row").cast(pl.UInt32)).join(rows, on="row")
    known_at = pl.col(source.known_at) + pl.duration(seconds=pl.col("after"))
    values = [name for name in feature_columns(view) if rows.schema[name].is_numeric()]
    moved = [(pl.col(name) + pl.col("after") % 60).cast(rows.schema[name]).alias(name) for name in values]
    everything = pl.concat([rows, added.with_columns(known_at, *moved).select(rows.columns)])
    next_known = pl.col(source.known_at).sort_by(source.known_at).shift(-1).over("row", order_by=source.known_at)
    table = everything.with_columns(next_known.alias("superseded_at")).drop("row").to_arrow()
    return replace(view, source=replace(source, superseded_at="superseded_at")), table


def feature_columns(view: FeatureView) -> list[str]:
    """The columns of the source that features are made of, each once."""
    return sorted({feature.column for feature in view.features if feature.column is not None})


def versions_joined(view: FeatureView) -> str:
    """The windowed features of the view in SQL over versions, one row a request: a join that takes the version of the time asked."""
    source, selected = view.source, []
    for feature, window, _ in _windows(view):
        span, hop = window // MICROSECOND, hop_of(window, feature.hop) // MICROSECOND
        start = f"(epoch_us({DECISION_AT}) - {span}) // {hop} * {hop}"
        call = VERSIONS_SQL[feature.aggregate].format(f"events.{feature.column}" if feature.column else f"events.{source.event_at}")
        selected.append(f"{call} FILTER (epoch_us({source.event_at}) >= {start}) AS {names.feature(view.name, feature.name, window)}")
    longest = max(window + hop_of(window, feature.hop) for feature, window, _ in _windows(view))
    keys = " AND ".join(f"events.{key} = requests.{key}" for key in view.entity.keys)
    return f"""
        SELECT {", ".join(selected)} FROM requests LEFT JOIN events ON {keys}
            AND {source.event_at} BETWEEN {DECISION_AT} - INTERVAL '{int(longest.total_seconds())} seconds' AND {DECISION_AT}
            AND {source.known_at} <= {DECISION_AT} AND ({source.superseded_at} IS NULL OR {source.superseded_at} > {DECISION_AT})
        GROUP BY number ORDER BY number
    """  # noqa: S608 - names from the declarations, in a database of its own


def measure_versions(requests: pa.Table, events: dict[str, pa.Table]) -> None:
    """Prints the time of all views with a tenth of their rows corrected beside that without, and of one view beside DuckDB's."""
    plain, versioned = 0.0, 0.0
    for view in views_of(use_case):
        changed, versions = with_versions(view, events[view.source.name])
        (before, after), _ = best_of(
            partial(view_features, view, requests, events[view.source.name]), partial(view_features, changed, requests, versions)
        )
        plain, versioned = plain + before, versioned + after
        print(f"  {view.name:22} {before:7.3f} s, with versions {after:7.3f} s, ratio {after / before:5.2f}")
    print(f"  all views              {plain:7.3f} s, with versions {versioned:7.3f} s, ratio {versioned / plain:5.2f} (goal: at most 2)")
    by_keys = next(view for view in map(only_windows_of_versions, views_of(use_case)) if len(view.entity.keys) > 1)
    view, versions = with_versions(by_keys, events[by_keys.source.name])
    connection = duckdb.connect()
    connection.register("requests", requests.append_column("number", pa.array(range(requests.num_rows))))
    connection.register("events", versions)
    (kernel, sql), answers = best_of(
        partial(view_features, view, requests, versions), partial(_run, connection, versions_joined(view)), rounds=1
    )
    difference = greatest_difference(*answers)
    print(f"  {view.name:22} kernel {kernel:7.3f} s, DuckDB {sql:7.3f} s, ratio {sql / kernel:6.1f} (goal: 5), difference {difference:.1e}")
    if difference > TOLERANCE:
        raise SystemExit(f"Answers over versions differ by {difference:.1e}, more than {TOLERANCE:.0e}.")


def only_windows_of_versions(view: FeatureView) -> FeatureView:
    """What a join with aggregates can express of the view: windows of values that have no order."""
    features = tuple(feature for feature in view.features if isinstance(feature, Windowed) and feature.aggregate in VERSIONS_SQL)
    return replace(view, features=features)


def generated_rows() -> tuple[pa.Table, pa.Table]:
    """Feature rows and requests with text keys and distinct random times over a year, in no order."""
    random = np.random.default_rng(2013)
    year = 365 * 86_400 * 1_000_000
    keys = pa.array([f"N{number:05}" for number in range(KEYS)])

    def table(rows: int, at: str) -> pa.Table:
        times = pa.array(random.integers(0, year, rows), pa.timestamp("us", tz="UTC"))
        return pa.table({"key": keys.take(pa.array(random.integers(0, KEYS, rows))), at: times, "number": pa.array(range(rows))})

    rows = table(FEATURE_ROWS, "event_at").append_column("value", pa.array(random.normal(size=FEATURE_ROWS)))
    return rows, table(REQUESTS, DECISION_AT)


def measure_as_of() -> None:
    """Prints the time of the as-of join beside those of DuckDB's ASOF LEFT JOIN and of Feast."""
    rows, requests = generated_rows()
    connection = duckdb.connect()
    connection.register("f", rows)
    connection.register("r", requests)
    columns = Columns(keys=("key",), asked_at=DECISION_AT, event_at="event_at", known_at="event_at", order_by=())
    query = "SELECT r.number, value FROM r ASOF LEFT JOIN f ON r.key = f.key AND r.decision_at >= f.event_at"
    (kernel, sql), (ours, theirs) = best_of(
        partial(as_of_join, requests, rows, columns, ["value"]), partial(_run, connection, query), rounds=7
    )
    refuse_other_values(ours, theirs, "DuckDB")
    print(f"  {FEATURE_ROWS:,} rows x {REQUESTS:,} requests: kernel {kernel:.3f} s, DuckDB {sql:.3f} s, ratio {sql / kernel:.2f} (goal: 1)")
    feast = measure_feast(rows, requests, ours)
    if feast is not None:
        print(f"  the same by Feast {FEAST}: {feast:.1f} s, ratio {feast / kernel:.0f}")


def measure_feast(rows: pa.Table, requests: pa.Table, ours: pa.Table) -> float | None:
    """Seconds of Feast's DuckDB offline store in an environment of its own; None, and a line that says why, where there can be none."""
    uv = shutil.which("uv") or shutil.which("uv", path=".uv/bin")
    if uv is None:
        print("  Feast: not measured, there is no uv to make its environment")
        return None
    with TemporaryDirectory() as name:
        folder = Path(name)
        pq.write_table(rows.select(["key", "event_at", "value"]), folder / "rows.parquet")
        pq.write_table(requests, folder / "requests.parquet")
        environment = [uv, "run", "--no-project", "--isolated", "--with", f"feast[duckdb]=={FEAST}"]
        done = subprocess.run([*environment, "python", str(PEER), name, "1"], capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"  Feast: not measured, {done.stderr.strip().splitlines()[-1]}")
            return None
        refuse_other_values(ours, pq.read_table(folder / "answer.parquet"), "Feast")
    return float(done.stdout.split()[-1])


def refuse_other_values(ours: pa.Table, theirs: pa.Table, peer: str) -> None:
    """Ends the bench if the values differ; ours are in the order of the requests' numbers."""
    expected = theirs.sort_by("number").column("value").combine_chunks()
    if not ours.column("value").combine_chunks().equals(expected):
        raise SystemExit(f"The as-of join of {peer} has other values.")


def main() -> None:
    """Runs and prints all measurements; exit code 1 where answers differ."""
    requests, events = flight_tables()
    print(f"All views over {requests.num_rows:,} flights")
    measure_views(requests, events)
    print("Windowed features against DuckDB's range windows")
    measure_windows(requests, events)
    print("Windowed features of rows with versions")
    measure_versions(requests, events)
    print("As-of join against DuckDB's ASOF LEFT JOIN and Feast")
    measure_as_of()


if __name__ == "__main__":
    main()
