"""The audit of tables whose objects have no seal, as Kafka Connect writes them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import SqlCatalog

from pipeline_assets.core import names
from pipeline_assets.processing.lake import files
from pipeline_assets.processing.lake.audit import WHOLE, LakeVerdict, _table
from pipeline_assets_tests.flipped_bits import flipped
from pipeline_assets_tests.landings import TOPIC, folder_catalog, land, records

IDENTIFIER = names.landed(TOPIC)


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Catalog]:
    """A catalog in a folder, whose landing table was written by a writer that knows of no seals, with checksums of pages."""
    with folder_catalog(tmp_path) as writer:
        land(writer, records(0, 200))
        land(writer, records(200, 400))
        (path, *_) = data_files(writer)
        pq.write_table(pq.read_table(path), path, write_page_checksum=True)
        reading = {**writer.properties, "py-io-impl": "pipeline_assets.core.sealed_files.SealedFileIO"}
        with SqlCatalog("lake", **reading) as catalog:
            yield catalog


def data_files(lake: Catalog) -> list[Path]:
    """The data files of the landing table."""
    return [Path(file.file_path.removeprefix("file://")) for file in files.live_files(lake.load_table(IDENTIFIER))]


def audited(lake: Catalog) -> LakeVerdict:
    """What the audit finds of the landing table."""
    return _table(lake, IDENTIFIER, WHOLE)


def test_a_landed_table_that_is_whole_has_no_problem(lake: Catalog) -> None:
    """Two data files, and the metadata of two snapshots, each once."""
    found = audited(lake)

    assert (found.problems, found.old) == ([], 0)
    assert found.objects == 2 + 1 + 2 + 2


def test_wrong_bits_of_landed_rows_are_found(lake: Catalog) -> None:
    """Regression: a Parquet file without a seal was opened and not read, so it passed whatever was in it."""
    (path, *_) = data_files(lake)
    content, column = path.read_bytes(), pq.read_metadata(path).row_group(0).column(0)
    end = (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size
    for bit in range((end - 8) * 8, end * 8):
        path.write_bytes(flipped(content, bit))
        (problem,) = audited(lake).problems
        assert f"is damaged: file://{path} cannot be read" in problem
    path.write_bytes(content)

    assert audited(lake).problems == []


@pytest.mark.parametrize("kind", ["metadata", "list", "manifest"])
def test_metadata_of_which_nothing_can_be_made_are_the_problem_of_their_table(lake: Catalog, kind: str) -> None:
    """Regression: what pyiceberg raises for a wrong bit in metadata without a seal ended the audit of all tables."""
    table = lake.load_table(IDENTIFIER)
    first, newest = table.snapshots()
    paths = {"metadata": table.metadata_location, "list": newest.manifest_list, "manifest": first.manifests(table.io)[0].manifest_path}
    path = Path(paths[kind].removeprefix("file://"))
    content, found = path.read_bytes(), list[bool]()
    for bit in map(int, np.random.default_rng(4711).integers(len(content) * 8, size=40)):
        path.write_bytes(flipped(content, bit))
        verdict = audited(lake)
        found.append(bool(verdict.problems or verdict.old))
        assert all("cannot be read" in problem or "is not there" in problem for problem in verdict.problems)

    assert any(found)
