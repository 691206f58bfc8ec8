"""An entity of a stream is forgotten: landed bytes, typed rows, quarantine and online states, and what the topic sends again."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from psycopg import sql
from pydantic import SecretStr
from typer.testing import CliRunner
from valkey import Valkey

from pipeline_assets.cli import app
from pipeline_assets.core import names
from pipeline_assets.core.connections import catalog, online, warehouse
from pipeline_assets.core.forgetting_errors import NotForgotten
from pipeline_assets.core.prediction_streams import prediction_feedback, prediction_log
from pipeline_assets.core.settings import PREFIX, Settings
from pipeline_assets.core.versions import versioned
from pipeline_assets.forgetting.job import Declared, forget, plan
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.ingestion.streaming.staged.events import stage_events
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
from pipeline_assets.processing.cleaning.raw_tables import load_raw_days
from pipeline_assets.processing.lake import tables
from pipeline_assets.serving.realtime.log.record import Logged
from pipeline_assets_tests.kept_bytes import places_with
from pipeline_assets_tests.landings import Landed, land
from pipeline_assets_tests.logged_predictions import logged
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


ASKED = datetime(2026, 6, 30, 12, tzinfo=UTC)
STREAMS = (prediction_log, prediction_feedback)


def answered(settings: Settings, first: int, predictions: Sequence[Logged]) -> int:
    """Lands records of predictions, and a label of each; the next offset of both."""
    given = {"model": "flight_delay", "label": "true", "actor": "a test", "given_at": ASKED.isoformat()}
    labels = [json.dumps({**given, "prediction_id": one.prediction_id}).encode() for one in predictions]
    with catalog(settings) as lake:
        for stream, values in zip(STREAMS, ([one.to_json() for one in predictions], labels), strict=True):
            landed = [Landed(offset=first + n, payload=one, received_at=ASKED, topic=stream.topic) for n, one in enumerate(values)]
            land(lake, landed, stream.topic)
    return first + len(labels)


def recorded(settings: Settings) -> list[int]:
    """Types what has landed of both, and has the day staged, in the lake and in the warehouse; how many rows were typed of each."""
    found = [type_landed(settings, one, run_id="a test", streams=record_streams(PROJECT)).rows for one in STREAMS]
    for one in STREAMS:
        stage_events(settings, one, ASKED.date(), ASKED.date(), run_id="a test")
        tables.publish_days(settings, versioned(one.contract), ASKED.date(), ASKED.date())
        load_raw_days(settings, versioned(one.contract), ASKED.date(), ASKED.date())
    return found


def in_warehouse(settings: Settings) -> list[set[str]]:
    """The ids of predictions, and of predictions with labels."""
    queries = [sql.SQL("select prediction_id from {}").format(sql.Identifier("raw", one.contract.name)) for one in STREAMS]
    with warehouse(settings) as connection:
        return [{number for (number,) in connection.execute(query).fetchall()} for query in queries]


def test_predictions_of_a_forgotten_aircraft_and_their_labels_are_gone_from_the_log(isolated: Settings, declared: Declared) -> None:
    """Landed, typed, staged, in lake and warehouse; those of others stay. What comes of it later is passed over: repeats, and new ones."""
    log = [logged(n, asked_at=ASKED, keys={"origin": "JFK", "tailnum": KEY if n % 3 == 0 else "N1"}) for n in range(6)]
    log[1] = replace(log[1], tier="caller", keys={}, request={})
    others = {one.prediction_id for one in log if one.keys.get("tailnum") != KEY}
    end = answered(isolated, 0, log)
    first = recorded(isolated)
    before, ids_before = places_with(isolated, KEY), in_warehouse(isolated)
    shown = plan(isolated, declared, "aircraft", [KEY], silent)
    proof, _ = forget(isolated, declared, "aircraft", [KEY], silent)
    after, ids_after = places_with(isolated, KEY), in_warehouse(isolated)
    answered(isolated, end, [*log, replace(log[0], prediction_id="later"), replace(log[1], prediction_id="other")])
    again, ids_again = recorded(isolated), in_warehouse(isolated)
    second, _ = forget(isolated, declared, "aircraft", [KEY], silent)

    assert (first, ids_before) == ([6, 6], [{one.prediction_id for one in log}] * 2)
    assert len(before) >= 4
    assert (after, ids_after) == ([], [others, others])
    assert proof.places == {name: {"rows": one.rows, "files": one.files, "snapshots": one.snapshots} for name, one in shown.held.items()}
    assert {name: held["rows"] for name, held in proof.places.items() if "prediction" in name} == {
        "lake landed.prediction_log": 2, "lake landed.prediction_feedback": 2, "lake typed.prediction_log": 2,
        "lake typed.prediction_feedback": 2, "staged prediction_log 2026-06-30": 2, "staged prediction_feedback 2026-06-30": 2,
        "warehouse raw.prediction_log": 2, "warehouse raw.prediction_feedback": 2, "lake lake.prediction_log": 2,
        "lake lake.prediction_feedback": 2,
    }  # fmt: skip
    assert proof.not_taken_in["prediction_log"] == ["model, keys->>tailnum"]
    assert {"prediction-log", "prediction-feedback"} <= set(proof.topics)
    assert again == [5, 6]
    assert ids_again == [others | {"other"}, others | {"other", "later"}]
    assert places_with(isolated, KEY) == []
    assert {name: held["rows"] for name, held in second.places.items()} == {"lake landed.prediction_log": 3}


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
