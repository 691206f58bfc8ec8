"""A Postgres table to Parquet files by dlt with ConnectorX, in an environment of its own; started by `benchmarks/ingest.py`.

    python dlt_connectorx.py DSN TABLE FOLDER

Prints the seconds from the first query to the last file without the imports, the peak memory in megabytes, and the rows loaded.
"""

import resource
import sys
import time

import dlt  # type: ignore[import-not-found]
from dlt.sources.sql_database import sql_table  # type: ignore[import-not-found]


def main() -> None:
    """Loads the table and prints what it took."""
    dsn, table, folder = sys.argv[1:]
    began = time.perf_counter()
    pipeline = dlt.pipeline(
        "bench", destination=dlt.destinations.filesystem(f"file://{folder}/files"), dataset_name="bench", pipelines_dir=f"{folder}/work"
    )
    rows = sql_table(credentials=dsn, table=table, backend="connectorx", backend_kwargs={"return_type": "arrow_stream"}, chunk_size=100_000)
    pipeline.run(rows, loader_file_format="parquet").raise_on_failed_jobs()
    seconds = time.perf_counter() - began
    loaded = pipeline.last_trace.last_normalize_info.row_counts[table]
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000, loaded)


if __name__ == "__main__":
    main()
