"""The operational database of the league: its clubs.

    python -m simulator.bundesliga.database

The DSN comes from the environment variable PIPELINE_OWNERS__LEAGUE. Loading again changes nothing.
"""

import os
import sys

import psycopg

from simulator.bundesliga import data

DSN_VARIABLE = "PIPELINE_OWNERS__LEAGUE"
CREATE = """
create table if not exists clubs (
    club_id integer primary key,
    name text not null,
    first_season integer not null,
    updated_at timestamptz not null
)
"""
INSERT = """
insert into clubs (club_id, name, first_season, updated_at)
values (%s, %s, %s, make_timestamptz(%s, 7, 1, 0, 0, 0, 'UTC'))
on conflict (club_id) do nothing
"""


def load(dsn: str) -> int:
    """Fills the table of clubs, each known from the summer before its first season; returns how many there are."""
    rows = [(club_id, name, season, season) for club_id, name, season in data.clubs().iter_rows()]
    with psycopg.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute(CREATE)
        cursor.executemany(INSERT, rows)
    return len(rows)


def main() -> None:
    """Load the database that the environment names."""
    dsn = os.environ.get(DSN_VARIABLE)
    if not dsn:
        sys.exit(f"{DSN_VARIABLE} is not set.")
    sys.stdout.write(f"{load(dsn)} clubs\n")


if __name__ == "__main__":
    main()
