"""An entity of a stream is forgotten: landed bytes, typed rows, quarantine and online states, and what the topic sends again."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner
from valkey import Valkey

from pipeline_assets.cli import app
from pipeline_assets.core import names
from pipeline_assets.core.connections import catalog, online
from pipeline_assets.core.forgetting_errors import NotForgotten
from pipeline_assets.core.settings import PREFIX, Settings
from pipeline_assets.forgetting.job import Declared, forget
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.ingestion.streaming.streams import record_streams
from pipeline_assets.ingestion.streaming.typed.rows import Typed, type_landed
from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.copies import Copied, Copies
from pipeline_assets.model_lifecycle.feature_store.online.feeds import feeds_of
from pipeline_assets.model_lifecycle.feature_store.online.keep import keep_records
from pipeline_assets.model_lifecycle.feature_store.online.read import Reader
from pipeline_assets.model_lifecycle.feature_store.online.served import write_samples
from pipeline_assets.model_lifecycle.feature_store.online.session import open_session
from pipeline_assets.model_lifecycle.feature_store.online.stored import Stored
from pipeline_assets.processing.cleaning.dbt import project_folder
from pipeline_assets.processing.cleaning.lineage import read_lineage
from pipeline_assets.processing.cleaning.manifest import read_manifest
from pipeline_assets.processing.lake import tables
from pipeline_assets_tests.kept_bytes import places_with
from pipeline_assets_tests.landings import Landed, land
from pipeline_assets_tests.online_departures import PROJECT, departures, feed, questions, rows_kept, table_of
from pipeline_assets_tests.stack_env import write_stack_env

KEY, RENAMED = "NZq7Qx", "N2"
FEED = feed("departures_history")
BROKEN = (b'{"flight_id": "f9", "tailnum": "NZq7Qx", "event_at": "never"}', b"N1;NZq7Qx;LAX", b'{"flight_id": "f8", "tailnum": "N1"}')


@pytest.fixture(scope="module")
def declared() -> Declared:
    """What the project declares."""
    feeds = feeds_of(PROJECT, read_manifest(project_folder()))
    return Declared(project=PROJECT, dbt=read_lineage(project_folder()), feeds=feeds)


def silent(_: str) -> None:
    """Hears nothing."""


def flown(flights: int) -> list[dict[str, Any]]:
    """Departures with corrections, some of the aircraft that is to be forgotten."""
    rows = departures(np.random.default_rng(30), flights)
    return [{**row, "tailnum": KEY if row["tailnum"] == RENAMED else row["tailnum"]} for row in rows]


def sent(settings: Settings, rows: Sequence[Mapping[str, Any]], first: int, broken: Sequence[bytes] = ()) -> int:
    """Lands rows as records of the topic, with some that break the contract behind them; the next offset."""
    assert FEED.stream is not None
    payloads = [
        json.dumps({name: one.isoformat() if isinstance(one, datetime) else one for name, one in row.items()}).encode() for row in rows
    ]
    received = rows[-1]["recorded_at"] + timedelta(seconds=1)
    topic = FEED.stream.topic
    landed = [Landed(offset=first + n, payload=one, received_at=received, topic=topic) for n, one in enumerate((*payloads, *broken))]
    with catalog(settings) as lake:
        land(lake, landed, topic)
    return first + len(landed)


def typed(settings: Settings) -> Typed:
    """Types what has landed."""
    assert FEED.stream is not None
    return type_landed(settings, FEED.stream, run_id="a test", streams=record_streams(PROJECT))


def serve(settings: Settings, rows: Sequence[dict[str, Any]]) -> store.Kept:
    """The feed with these rows, live, in the place of what it had."""
    with online(settings) as connection:
        kept = store.begin(connection, FEED)
        store.go_live(connection, kept)
    take(settings, kept, rows)
    return kept


def take(settings: Settings, kept: store.Kept, rows: Sequence[dict[str, Any]]) -> None:
    """Has the feed take rows."""
    with open_session(settings, kept) as session:
        keep_records(session, table_of(list(rows)), {0: 1})


def served(settings: Settings, at: datetime) -> dict[str, list[object]]:
    """What is served at a time."""
    with psycopg.connect(settings.online_dsn.get_secret_value(), autocommit=True) as connection:
        found: dict[str, list[object]] = Reader(Stored(connection, [FEED]), FEED.views).read(questions(at)).features.to_pydict()
    return found


def keep_served(settings: Settings) -> None:
    """Keeps two vectors that were served, one of them of the aircraft."""
    model = PROJECT.model("flight_delay")
    asked = pa.table({"tailnum": [KEY, "N1"], "decision_at": ["2013-05-04T00:00:00Z"] * 2})
    with online(settings) as connection:
        write_samples(connection, model, asked, pa.table({"aircraft_departures__flights_1h": [1, 2]}), [])


def held(settings: Settings, kept: store.Kept) -> list[dict[str, Any]]:
    """The rows that the online store has."""
    with online(settings) as connection:
        return sorted(rows_kept(connection, kept).to_pylist(), key=repr)


def test_records_of_a_forgotten_aircraft_leave_no_byte_and_are_passed_over_when_they_come_again(
    isolated: Settings, declared: Declared
) -> None:
    """Landed, typed, quarantined and online: gone, what others have is what their rows make, and the topic brings nothing of it again."""
    rows = flown(300)
    others = [row for row in rows if row["tailnum"] != KEY]
    end = sent(isolated, rows, 0, BROKEN)
    first, kept = typed(isolated), serve(isolated, rows)
    keep_served(isolated)
    before = places_with(isolated, KEY)
    proof, _ = forget(isolated, declared, "aircraft", [KEY], silent)
    after = places_with(isolated, KEY)
    waiting = quarantine.listed(isolated, source=FEED.contract.name)
    remaining = tables.row_count(isolated, names.typed(FEED.contract.name))
    take(isolated, kept, rows)
    found, asked = held(isolated, kept), served(isolated, rows[-1]["recorded_at"])
    sent(isolated, rows, end, BROKEN)
    again = typed(isolated)
    landed_again = places_with(isolated, KEY)
    second, _ = forget(isolated, declared, "aircraft", [KEY], silent)
    whole = serve(isolated, others)

    assert (first.rows, again.rows) == (len(rows), len(others))
    assert again.skipped == len(rows) - len(others) + 1
    assert len(before) >= 6
    assert after == []
    assert [row.original for row in waiting] == [BROKEN[2]]
    assert remaining == len(others)
    assert found == held(isolated, whole)
    assert asked == served(isolated, rows[-1]["recorded_at"])
    assert [place for place in landed_again if not place.startswith("lake/landed")] == ["warehouse quarantine.rows"]
    assert places_with(isolated, KEY) == []
    assert proof.places["served vectors of flight_delay"]["rows"] == 1
    assert "flight-departures" in proof.topics
    assert second.places["lake landed.flight_departures"]["rows"] == len(rows) - len(others) + 2


def copied_bytes(server: Valkey) -> bytes:
    """All that a server holds of online states, joined: entity keys, finished values, states and positions."""
    held: list[Any] = [server.hgetall(name) for name in server.scan_iter("online:*")]
    return b" ".join(part for one in held for pair in one.items() for part in pair)


def test_a_forgotten_aircraft_leaves_the_copy_of_the_online_states_too(isolated: Settings, declared: Declared, valkey: SecretStr) -> None:
    """No entity key and no byte of it is left on the server, and the copy answers as the store does, of the others as before."""
    settings, rows = isolated.model_copy(update={"online_valkey": valkey}), flown(80)
    serve(settings, [])
    with online(settings) as connection:
        kept = store.live(connection, FEED)
    take(settings, kept, rows)
    asked = questions(rows[-1]["recorded_at"])
    with Valkey.from_url(valkey.get_secret_value()) as server:
        before = copied_bytes(server)
        proof, _ = forget(settings, declared, "aircraft", [KEY], silent)
        after = copied_bytes(server)
        found = Reader(Copied(Copies(server), [FEED]), FEED.views).read(asked).features.to_pydict()

    assert KEY.encode() in before
    assert KEY.encode() not in after
    assert b"N1" in after
    assert found == served(settings, rows[-1]["recorded_at"])
    assert any(name.startswith("online ") for name in proof.places)


def test_the_command_shows_and_asks_before_it_removes_and_lists_proofs(isolated: Settings, tmp_path: Path) -> None:
    """A dry run and a refused question change nothing; `--yes` removes, and the proof is listed."""
    write_stack_env(isolated, tmp_path)
    sent(isolated, flown(40), 0)
    typed(isolated)
    before = places_with(isolated, KEY)
    run, environment = CliRunner().invoke, {f"{PREFIX}HOME": str(tmp_path)}
    asked = ["features", "forget", "aircraft", KEY]
    dry = run(app, [*asked, "--dry-run", "--json"], env=environment)
    refused = run(app, asked, env=environment, input="n\n")
    between = places_with(isolated, KEY)
    done = run(app, [*asked, "--yes"], env=environment)
    listed = run(app, ["features", "forgotten"], env=environment)

    shown = json.loads(dry.stdout)
    assert shown["known_by"]["raw.flight_departures"] == ["tailnum"]
    assert shown["held"]["lake typed.flight_departures"]["rows"] > 0
    assert (dry.exit_code, refused.exit_code, done.exit_code, listed.exit_code) == (0, 1, 0, 0)
    assert between == before
    assert places_with(isolated, KEY) == []
    assert "Forgotten. Proof: s3://" in done.stdout
    assert "seen by models: none" in listed.stdout


def test_records_that_are_not_typed_yet_keep_a_job_open(isolated: Settings, declared: Declared) -> None:
    """What has landed and was not typed is named, since typing would look for it; once it is, the same command ends."""
    rows = flown(40)
    sent(isolated, rows, 0)
    with pytest.raises(NotForgotten, match=r"landed\.flight_departures"):
        forget(isolated, declared, "aircraft", [KEY], silent)
    made = typed(isolated)
    forget(isolated, declared, "aircraft", [KEY], silent)

    assert made.rows == len([row for row in rows if row["tailnum"] != KEY])
    assert places_with(isolated, KEY) == []
