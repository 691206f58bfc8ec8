"""What comes to a change log is merged alone: staged, quarantined and published as if the whole log had been merged."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any

import pyarrow as pa
import pytest

from pipeline_assets.core import names
from pipeline_assets.core.connections import arrow_files, catalog, object_store
from pipeline_assets.core.errors import ContractViolation
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.versions import versioned
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.ingestion.staging.partitions import MANIFEST, Manifest, folder, read_manifest, read_staged
from pipeline_assets.ingestion.streaming.staged.change_log import log_contract
from pipeline_assets.ingestion.streaming.staged.checks import checked
from pipeline_assets.ingestion.streaming.staged.history import versions
from pipeline_assets.ingestion.streaming.staged.increment import MOST_SMALL
from pipeline_assets.ingestion.streaming.staged.state import stage_state
from pipeline_assets.processing.lake import compaction
from pipeline_assets.processing.lake.tables import publish_snapshot
from pipeline_assets.spec.sources import Source
from pipeline_assets_tests.change_logs import put_log
from pipeline_assets_tests.flipped_bits import flip
from pipeline_assets_tests.followed_tables import BY_COMMIT, SCHEMA, THINGS, UNREAD, Row, disturbed, facts_of, minute, played, record, thing

KEYS = [f"key-{number:03d}" for number in range(60)]
SNAPSHOT = [record("r", 10, number, thing(key, 1, 5), "last" if key == KEYS[-1] else "true") for number, key in enumerate(KEYS)]
# A size above is broken.
LARGEST = 1


def breaking(source: Source, *, share: float = 1.0) -> Source:
    """The source under a contract that its larger rows break, so many of which may be broken."""
    fields = tuple(replace(field, maximum=LARGEST) if field.name == "size" else field for field in source.contract.fields)
    return replace(source, contract=replace(source.contract, fields=fields, broken_share=share))


SOURCE = breaking(THINGS)


def emit(settings: Settings, records: Sequence[Row]) -> None:
    """Appends records to the log."""
    put_log(settings, SOURCE.contract, pa.Table.from_pylist(list(records), schema=SCHEMA))


def manifest_of(settings: Settings) -> Manifest:
    """What is staged."""
    manifest = read_manifest(settings, SOURCE.contract.name, names.SNAPSHOT)
    assert manifest is not None
    return manifest


def content(settings: Settings) -> tuple[list[Row], list[tuple[Any, ...]]]:
    """The staged rows and the quarantine, in an order of their own."""
    staged = [row for batch in read_staged(object_store(settings), settings.s3_bucket, manifest_of(settings)) for row in batch.to_pylist()]
    held = quarantine.listed(settings, source=SOURCE.contract.name)
    return sorted(staged, key=str), sorted((row.position, row.field, row.reason, bytes(row.original)) for row in held)


def at_once(log: pa.Table, source: Source = SOURCE) -> tuple[list[Row], list[tuple[Any, ...]]]:
    """What one merge of a log in memory gives."""
    found = checked(source.contract, versions(log, source, facts_of(log, source)))
    rows = [row | {"_deleted_at": row.get("_deleted_at")} for row in found.good.to_pylist()]
    return sorted(rows, key=str), sorted((row.position, row.field, row.reason, row.original) for row in found.broken)


@pytest.mark.parametrize("seed", range(6))
def test_each_increment_leaves_what_a_merge_of_the_whole_would(isolated: Settings, seed: int) -> None:
    """Deletions, other keys, broken and lost values, changes emitted again, snapshots: the same rows and the same quarantine."""
    random, source = Random(seed), breaking(BY_COMMIT if seed % 2 else THINGS)  # noqa: S311 - rows for a test, not secrets
    table = played(random, 20, by_commit=bool(seed % 2), breaks=0.1)
    for _ in range(25):
        table.step(is_seen=True)
    log, increments = disturbed(table), 0
    cuts = [0, *sorted(random.sample(range(log.num_rows // 3, log.num_rows), 5)), log.num_rows]
    for start, end in pairwise(cuts):
        put_log(isolated, source.contract, log.slice(start, end - start))
        done = stage_state(isolated, source, run_id=f"run-{end}")
        increments += done.whole_because is None

        assert content(isolated) == at_once(log.slice(0, end), source)
        assert done.changes == end
    assert increments >= 2
    assert publish_snapshot(isolated, versioned(source.contract)).table_rows == manifest_of(isolated).rows


def test_a_version_that_a_new_contract_takes_ends_as_it_did(isolated: Settings) -> None:
    """Regression: a replay of the row alone, as quarantine has it, made a row stand again that had been deleted since."""
    log = [
        record("r", 10, 0, thing("A", 1, 5), "last"),
        record("u", 20, 1, thing("A", 2, 15)),
        record("c", 21, 2, thing("B", 3, 16)),
        record("d", 30, 3, {"id": "A"}),
    ]
    emit(isolated, log)
    stage_state(isolated, SOURCE, run_id="first")
    mended = replace(SOURCE, contract=replace(THINGS.contract, broken_share=1.0))
    broken = quarantine.counted(isolated, source=SOURCE.contract.name)
    stage_state(isolated, mended, run_id="mended")

    assert len(broken) > 0
    assert quarantine.counted(isolated, source=SOURCE.contract.name) == {}
    assert content(isolated) == at_once(pa.Table.from_pylist(log, schema=SCHEMA), mended)


@pytest.mark.parametrize("damaged", [MANIFEST, "rows"])
def test_what_is_damaged_is_merged_from_the_whole_log(isolated: Settings, damaged: str) -> None:
    """Regression: a damaged manifest was read, and refused, by the very run that should make it anew."""
    emit(isolated, SNAPSHOT)
    stage_state(isolated, SOURCE, run_id="first")
    key = f"{folder(SOURCE.contract.name, names.SNAPSHOT)}/{MANIFEST}"
    if damaged == "rows":
        key = manifest_of(isolated).files[0].path.removeprefix(f"s3://{isolated.s3_bucket}/")
    flip(object_store(isolated), isolated.s3_bucket, key, 4711)
    emit(isolated, more := [record("u", 20, 60, thing(KEYS[0], 0, 15))])
    done = stage_state(isolated, SOURCE, run_id="second")

    assert done.whole_because is not None
    assert done.whole_because.startswith("a damaged object: s3://")
    assert content(isolated) == at_once(pa.Table.from_pylist([*SNAPSHOT, *more], schema=SCHEMA))


def test_new_versions_are_appended_and_other_files_stay(isolated: Settings) -> None:
    """Updates and inserts add a file; a deletion writes the file of its row again; the lake takes up only what is new."""
    emit(isolated, SNAPSHOT)
    first = stage_state(isolated, SOURCE, run_id="first")
    publish_snapshot(isolated, versioned(SOURCE.contract))
    emit(isolated, [record("u", 20, 60, thing(KEYS[0], 0, 15)), record("c", 21, 61, thing("new", 1, 16))])
    second = stage_state(isolated, SOURCE, run_id="second")
    published = publish_snapshot(isolated, versioned(SOURCE.contract))
    emit(isolated, [record("d", 30, 62, {"id": "new"})])
    third = stage_state(isolated, SOURCE, run_id="third")

    assert (first.whole_because, second.whole_because, third.whole_because) == ("nothing was staged by this declaration", None, None)
    assert (first.keys_merged, second.keys_merged, third.keys_merged) == (60, 2, 1)
    assert second.staged.manifest.files[:-1] == first.staged.manifest.files
    assert second.staged.manifest.files[-1].rows == 2
    assert (published.files, published.table_rows) == (2, 62)
    assert third.staged.manifest.files[:-1] == first.staged.manifest.files
    assert third.staged.manifest.files[-1] != second.staged.manifest.files[-1]
    assert (third.changes, third.lsn) == (63, 30)


def test_the_quarantine_of_other_keys_stays(isolated: Settings) -> None:
    """A broken version ends the one before it; once its key is in order again, and whatever happens to others, each is there once."""
    broken = [record("u", 20, 60, thing(KEYS[0], 5, 15)), record("u", 21, 61, thing(KEYS[1], 6, 16))]
    more = [record("u", 30, 62, thing(KEYS[1], 7, 25)), record("u", 31, 63, thing(KEYS[2], 0, 26))]
    emit(isolated, [*SNAPSHOT, *broken])
    stage_state(isolated, SOURCE, run_id="first")
    before = {row.position: (row.id, row.run_id) for row in quarantine.listed(isolated)}
    emit(isolated, more)
    done = stage_state(isolated, SOURCE, run_id="second")
    after = {row.position: (row.id, row.run_id) for row in quarantine.listed(isolated)}

    assert done.whole_because is None
    assert (set(before), set(after)) == ({60, 61}, {60, 61, 62})
    assert after[60] == before[60]
    assert after[61][1] == after[62][1] == "second"
    assert (done.staged.manifest.broken, dict(done.staged.manifest.reasons)) == (3, {"size out of range": 3})
    assert content(isolated) == at_once(pa.Table.from_pylist([*SNAPSHOT, *broken, *more], schema=SCHEMA))


def test_too_many_broken_rows_refuse_an_increment(isolated: Settings) -> None:
    """The contract's share is of all rows, those that were staged before too; what was staged and held back stays."""
    strict = breaking(THINGS, share=0.02)
    emit(isolated, [*SNAPSHOT, record("u", 20, 60, thing(KEYS[0], 5, 15))])
    stage_state(isolated, strict, run_id="first")
    before = manifest_of(isolated), content(isolated)
    emit(isolated, [record("u", 30, 61, thing(KEYS[1], 5, 25))])
    with pytest.raises(ContractViolation, match="2 of 62 rows are broken"):
        stage_state(isolated, strict, run_id="second")

    assert (manifest_of(isolated), content(isolated)) == before


def test_a_run_that_was_killed_before_its_manifest_changes_nothing(isolated: Settings) -> None:
    """Files and quarantine are ahead of the manifest then: what is staged is as before, and the next run ends as if there had been none."""
    store, key = object_store(isolated), f"{folder(SOURCE.contract.name, names.SNAPSHOT)}/{MANIFEST}"
    killed = [record("u", 20, 60, thing(KEYS[0], 0, 15)), record("u", 21, 61, thing(KEYS[1], 5, 16)), record("d", 22, 62, {"id": KEYS[2]})]
    later = [record("u", 30, 63, thing(KEYS[1], 0, 26))]
    emit(isolated, SNAPSHOT)
    stage_state(isolated, SOURCE, run_id="first")
    stored = store.get_object(Bucket=isolated.s3_bucket, Key=key)["Body"].read()
    rows = content(isolated)[0]
    emit(isolated, killed)
    stage_state(isolated, SOURCE, run_id="killed")
    store.put_object(Bucket=isolated.s3_bucket, Key=key, Body=stored)
    left = content(isolated)[0]
    emit(isolated, later)
    done = stage_state(isolated, SOURCE, run_id="again")

    assert left == rows
    assert done.whole_because == "a quarantine that is not that of the staged files"
    assert content(isolated) == at_once(pa.Table.from_pylist([*SNAPSHOT, *killed, *later], schema=SCHEMA))


@pytest.mark.parametrize(
    ("records", "source", "reason"),
    [
        ([record("r", 50, 60, thing(KEYS[0], 1, 5), "last")], SOURCE, "a snapshot or a truncation"),
        ([record("t", 50, 60, {"id": None})], SOURCE, "a snapshot or a truncation"),
        ([record("u", 50, 60, thing(KEYS[0], 0, 45))], breaking(BY_COMMIT), "nothing was staged by this declaration"),
        ([record("u", 50, 60, thing(KEYS[0], 0, 45, "a"))], SOURCE, "a column with a value earlier than before"),
    ],
)
def test_what_cannot_be_merged_alone_is_merged_as_a_whole(isolated: Settings, records: list[Row], source: Source, reason: str) -> None:
    """A new snapshot, a truncation, another declaration, the first value of a column: the reason is reported."""
    emit(isolated, SNAPSHOT)
    stage_state(isolated, SOURCE, run_id="first")
    emit(isolated, records)
    done = stage_state(isolated, source, run_id="second")

    assert done.whole_because == reason
    assert content(isolated) == at_once(pa.Table.from_pylist([*SNAPSHOT, *records], schema=SCHEMA), source)


def test_a_compacted_log_is_gone_on_with(isolated: Settings) -> None:
    """Compaction puts old and new records into one file: only those count that were in no file before."""
    update, later = record("u", 20, 60, thing(KEYS[0], 0, 15)), record("d", 30, 61, {"id": KEYS[1]})
    emit(isolated, SNAPSHOT)
    stage_state(isolated, SOURCE, run_id="first")
    emit(isolated, [update])
    with catalog(isolated) as lake:
        table = lake.load_table(names.typed(log_contract(SOURCE.contract).name))
        compacted = compaction.compact(arrow_files(isolated), table, min_files=2, target_bytes=1 << 20)
    second = stage_state(isolated, SOURCE, run_id="second")
    emit(isolated, [later])
    third = stage_state(isolated, SOURCE, run_id="third")

    assert (compacted.files_before, compacted.files_after) == (2, 1)
    assert (second.whole_because, second.keys_merged, third.whole_because) == (None, 1, None)
    assert content(isolated) == at_once(pa.Table.from_pylist([*SNAPSHOT, update, later], schema=SCHEMA))


def test_a_broken_change_is_merged_with_its_key_and_its_replay_with_the_whole(isolated: Settings) -> None:
    """Also where compaction put both into one file: they stand at one offset, and the replay is not taken for what was merged."""
    broken, whole = (record("u", 20, 60, thing(KEYS[0], 0, 15) | {UNREAD: fields}) for fields in ({"size"}, set()))
    emit(isolated, SNAPSHOT)
    stage_state(isolated, SOURCE, run_id="first")
    emit(isolated, [broken])
    second = stage_state(isolated, SOURCE, run_id="second")
    ended = content(isolated)
    emit(isolated, [whole])
    with catalog(isolated) as lake:
        table = lake.load_table(names.typed(log_contract(SOURCE.contract).name))
        compaction.compact(arrow_files(isolated), table, min_files=2, target_bytes=1 << 20)
    third = stage_state(isolated, SOURCE, run_id="third")

    assert (second.whole_because, second.keys_merged) == (None, 1)
    assert ended == at_once(pa.Table.from_pylist([*SNAPSHOT, broken], schema=SCHEMA))
    assert (ended[0][0]["_deleted_at"], ended[1][0][:3]) == (minute(15), (60, "size", "wrong type"))
    assert third.whole_because == "records before those that were merged"
    assert content(isolated) == at_once(pa.Table.from_pylist([*SNAPSHOT, whole], schema=SCHEMA))


def test_many_increments_do_not_leave_many_files(isolated: Settings) -> None:
    """Each adds a small file; those are written together from time to time, and no row is lost by it."""
    counts = list[int]()
    emit(isolated, SNAPSHOT)
    stage_state(isolated, SOURCE, run_id="first")
    updates = [record("u", 20 + number, 60 + number, thing(key, 0, 20 + number)) for number, key in enumerate(KEYS[: MOST_SMALL + 4])]
    for one in updates:
        emit(isolated, [one])
        counts.append(len(stage_state(isolated, SOURCE, run_id="more").staged.manifest.files))

    assert max(counts) == MOST_SMALL
    assert counts[-1] < MOST_SMALL
    assert content(isolated) == at_once(pa.Table.from_pylist([*SNAPSHOT, *updates], schema=SCHEMA))


def test_a_merge_without_anything_new_leaves_the_files(isolated: Settings) -> None:
    """The same files, the same rows, under the name of the new run."""
    emit(isolated, SNAPSHOT)
    first = stage_state(isolated, SOURCE, run_id="first")
    again = stage_state(isolated, SOURCE, run_id="again")

    assert (again.whole_because, again.keys_merged) == (None, 0)
    assert again.staged.manifest == replace(first.staged.manifest, run_id="again")
    assert len(content(isolated)[0]) == 60
