"""The commands `sources propose table`, `endpoint` and `file`, which join those of the sources. What they need is loaded when they run."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from pipeline_assets.ingestion.sources.commands import (
    SAMPLED_ROWS,
    NameOption,
    OutputOption,
    RowsOption,
    check_proposal,
    proposals,
    write_proposal,
)


def register(_: typer.Typer) -> None:
    """Add the commands to those of the sources."""
    proposals.command("table")(propose_table)
    proposals.command("endpoint")(propose_endpoint)
    proposals.command("file")(propose_file)


def propose_table(
    database: Annotated[str, typer.Argument(metavar="DATABASE", help="A database of the settings, such as shop.")],
    table: Annotated[
        str, typer.Argument(metavar="SCHEMA.TABLE", help="The table as it is written in the catalog; public where no schema.")
    ],
    *,
    name: NameOption = None,
    rows: RowsOption = SAMPLED_ROWS,
    output: OutputOption = None,
) -> None:
    """Propose the contract of a Postgres table, from its catalog and some of its rows."""
    from pipeline_assets.core.settings import DatabaseSettings, home_folder, read_part
    from pipeline_assets.ingestion.batch.proposals import tables
    from pipeline_assets.spec.sources import PostgresTable

    check_proposal(name, output)
    schema, dot, inner = table.partition(".")
    origin = PostgresTable(database=database, schema=schema, table=inner) if dot else PostgresTable(database=database, table=table)
    write_proposal(*tables.propose_table(read_part(DatabaseSettings, home_folder()), origin, name, rows), output)


def propose_endpoint(
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="A service of the settings, such as billing.")],
    path: Annotated[str, typer.Argument(metavar="PATH", help="Path and query, such as '/v2/orders?from={since}&before={until}'.")],
    *,
    records: Annotated[str | None, typer.Option(help="Where in the answer the rows are, such as data.items. Default: looked for.")] = None,
    day: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="The day (UTC) that is asked for. Default: yesterday.")] = None,
    name: NameOption = None,
    rows: RowsOption = SAMPLED_ROWS,
    output: OutputOption = None,
) -> None:
    """Propose the contract of an endpoint of a REST API, from the first answer that it gives."""
    from pipeline_assets.core.settings import ServiceSettings, home_folder, read_part
    from pipeline_assets.ingestion.batch.proposals import endpoints

    check_proposal(name, output)
    asked = (day or datetime.now(UTC) - timedelta(days=1)).date()
    settings = read_part(ServiceSettings, home_folder())
    write_proposal(*endpoints.propose_endpoint(settings, service, path, name, records=records, day=asked, rows=rows), output)


def propose_file(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="A folder of the settings, such as inbox.")],
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="A path below it, or a pattern such as 'orders/%Y-%m-%d/*.csv.gz'.")],
    *,
    name: NameOption = None,
    rows: RowsOption = SAMPLED_ROWS,
    output: OutputOption = None,
) -> None:
    """Propose the contract of files (CSV with a line of names, JSON lines or Parquet), from the newest of them."""
    from pipeline_assets.core.settings import FolderSettings, home_folder, read_part
    from pipeline_assets.ingestion.batch.proposals import files

    check_proposal(name, output)
    write_proposal(*files.propose_files(read_part(FolderSettings, home_folder()), folder, pattern, name, rows), output)
