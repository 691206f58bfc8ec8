"""An entity is forgotten: nothing of it is in any byte that is kept, it does not come back, and nobody else is touched."""

import json
from gzip import compress
from pathlib import Path
from typing import Any

import pytest

from pipeline_assets.core import connections, names
from pipeline_assets.core.errors import UnknownName
from pipeline_assets.core.forgetting_errors import KeyMalformed
from pipeline_assets.core.settings import Settings
from pipeline_assets.forgetting.job import forget, plan
from pipeline_assets.forgetting.ledger import proofs
from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.training import archive
from pipeline_assets.processing.lake import tables
from pipeline_assets_tests.forgotten_kiosks import KEY, Kiosks, forget_and_be_killed, kiosks
from pipeline_assets_tests.kept_bytes import places_with
from pipeline_assets_tests.kiosks import model, takings, weather

LAKE = (names.features(takings.name), names.features(weather.name), names.vectors(model.name))


def silent(_: str) -> None:
    """Hears nothing."""


def others(world: Kiosks) -> dict[str, list[dict[str, Any]]]:
    """The rows of the other kiosks in features and vectors, and their online states."""
    found = {}
    gone = {row["sale_id"] for row in read(world, names.cleaned("kiosk_sales")) if row["kiosk"] == KEY}
    for table in LAKE:
        rows = [row for row in read(world, table) if row.get("kiosk") != KEY and row.get("sale_id") not in gone]
        found[".".join(table)] = sorted(rows, key=repr)
    with connections.online(world.settings) as connection:
        for feed in world.declared.feeds:
            kept = store.live(connection, feed)
            query = f"select view, key, state, value from online.state_{kept.id} where key <> %s order by 1, 2"  # noqa: S608 - of the test
            states = connection.execute(query, [KEY])
            found[feed.name] = [{"state": tuple(map(repr, row))} for row in states]
    return found


def read(world: Kiosks, table: names.AssetName) -> list[dict[str, Any]]:
    """All rows of a table of the lake."""
    rows: list[dict[str, Any]] = tables.read_all(world.settings, table).read_all().to_pylist()
    return rows


def kinds(places: list[str]) -> set[str]:
    """The beginnings of the names of places: the folders of the bucket, the schemas of databases."""
    return {place.split(".")[0] if " " in place else "/".join(place.split("/")[:2]) for place in places}


def test_nothing_of_a_forgotten_entity_is_left_and_it_does_not_come_back(isolated: Settings, tmp_path: Path) -> None:
    """No byte of lake, warehouse and online store has the key, others are as they were, and reading the sources again brings nothing."""
    with kiosks(isolated, tmp_path) as world:
        world.bring("1.00")
        world.bring("1.25")
        world.serve()
        kept, before = places_with(world.settings, KEY), others(world)
        shown = plan(world.settings, world.declared, "kiosk", [KEY], silent)
        untouched = places_with(world.settings, KEY)
        proof, path = forget(world.settings, world.declared, "kiosk", [KEY], silent)
        left, after = places_with(world.settings, KEY), others(world)
        world.bring("1.25")
        world.bring("1.50")
        again = places_with(world.settings, KEY)

    assert kinds(kept) >= {
        "staged/kiosk_sales", "staged/kiosk_temperatures", "lake/cleaned", "lake/features",
        "warehouse quarantine", "warehouse raw", "warehouse cleaned", "online online",
    }  # fmt: skip
    assert untouched == kept
    assert left == []
    assert after == before
    assert again == []
    assert proof.places == {name: {"rows": one.rows, "files": one.files, "snapshots": one.snapshots} for name, one in shown.held.items()}
    assert proof.places["warehouse predictions.kiosk_demand"]["rows"] == 6
    assert proof.places["quarantine of kiosk_sales"]["rows"] == 2
    assert proof.undeclared == []
    assert proof.left == []
    assert path.endswith(f"{proof.id}.json")
    assert proofs(isolated) == [json.loads(proof.to_json())]


def test_the_proof_names_the_models_that_had_seen_the_entity_and_their_training_set_is_without_it(
    stack: Settings, isolated: Settings, tmp_path: Path
) -> None:
    """The version that learned from the set is named, one that learned from another is not; what is left is read by the old name.

    A packed report that names the key is deleted, and another one stays.
    """
    with kiosks(isolated.model_copy(update={"mlflow_url": stack.mlflow_url}), tmp_path) as world:
        world.bring("1.00")
        world.serve()
        path, rows = world.keep_training_set()
        seen, other = world.learn_from(path, seed=1), world.learn_from("s3://elsewhere/0.parquet", seed=2)
        before = archive.read_path(world.settings, path, archive.digest_of(path))
        reports = {names.report_key(model.name, name): word for name, word in (("a.html", KEY), ("b.html", "somebody else"))}
        client = connections.object_store(world.settings)
        for place, word in reports.items():
            client.put_object(Bucket=world.settings.s3_bucket, Key=place, Body=compress(f"<td>{word}</td>".encode()))
        proof, _ = forget(world.settings, world.declared, "kiosk", [KEY], silent)
        left = archive.read_path(world.settings, path, archive.digest_of(path))

        kept = [one["Key"] for one in client.list_objects_v2(Bucket=world.settings.s3_bucket, Prefix="reports/")["Contents"]]

    assert kept == [names.report_key(model.name, "b.html")]
    assert before == rows
    assert set(proof.model_versions[model.name]) == {seen}
    assert other != seen
    assert proof.training_sets == [f"{model.name} {archive.digest_of(path)}"]
    assert left.num_rows == rows.num_rows - 6
    assert set(left["sale_id"].to_pylist()) < set(rows["sale_id"].to_pylist())


def test_a_job_that_is_killed_again_and_again_ends_as_one_that_is_not(isolated: Settings, tmp_path: Path) -> None:
    """Killed after more and more steps and notes, then left alone: nothing is left, others are as they were, the proof is whole."""
    with kiosks(isolated, tmp_path) as world:
        world.bring("1.00")
        world.serve()
        before = others(world)
        shown = plan(world.settings, world.declared, "kiosk", [KEY], silent)
        codes = [forget_and_be_killed(tmp_path, 4 + 12 * number) for number in range(5)]
        proof, _ = forget(world.settings, world.declared, "kiosk", [KEY], silent)
        left, after = places_with(world.settings, KEY), others(world)

    assert codes == [-9] * 5
    assert left == []
    assert after == before
    assert set(proof.places) == set(shown.held)
    assert {name: held["rows"] for name, held in proof.places.items()} == {name: one.rows for name, one in shown.held.items()}


def test_what_cannot_be_forgotten_is_refused_before_anything_is_touched(isolated: Settings, tmp_path: Path) -> None:
    """An unknown entity names those there are; a key of the wrong length or an empty one says what is expected."""
    with kiosks(isolated, tmp_path) as world:
        with pytest.raises(UnknownName, match="kiosk"):
            forget(world.settings, world.declared, "till", [KEY], silent)
        with pytest.raises(KeyMalformed, match="1 are expected"):
            forget(world.settings, world.declared, "kiosk", [KEY, "x"], silent)
        with pytest.raises(KeyMalformed, match="empty"):
            forget(world.settings, world.declared, "kiosk", [""], silent)
        with connections.warehouse(isolated) as connection:
            made = connection.execute("select to_regclass('forgotten.keys')").fetchone()

    assert made == (None,)
