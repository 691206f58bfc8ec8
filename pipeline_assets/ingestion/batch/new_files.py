"""Files that are new to a folder, each read once by its content, beside all that is staged of those before them.

A file is new if it is not as it was when it was read and no file of the index has its content: one that was renamed or copied is noted
and not read, one that was written again is. Its rows are added as versions of their keys. One with the key and `known_at` of a staged row
takes its place; one that is broken now ends it. A file that is gone changes nothing, and no file says that a row is gone.

Files, quarantine and index become visible with the manifest. A run that was killed leaves an index that no manifest names, and may leave
rows in quarantine: those of files that are not in the index are taken out by the next run, which reads these files again.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline_assets.core.damage import ObjectDamaged
from pipeline_assets.core.digests import digest_of
from pipeline_assets.core.errors import SourceRefused
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.versions import version_key
from pipeline_assets.ingestion.batch.again import check_again
from pipeline_assets.ingestion.batch.file_index import FileIndex, Indexed, read_index, write_index
from pipeline_assets.ingestion.batch.files import Folder, FoundFile, folder_of, placed
from pipeline_assets.ingestion.sources.contracts import Checked
from pipeline_assets.ingestion.sources.quarantine import QuarantinedRow
from pipeline_assets.ingestion.staging import partitions as staging
from pipeline_assets.ingestion.staging.draft import is_in, version_hashes
from pipeline_assets.ingestion.staging.increment import Part, bare, stage_increment, staged_before
from pipeline_assets.ingestion.staging.partitions import INDEX, Manifest
from pipeline_assets.ingestion.staging.stage import Staged, target_of
from pipeline_assets.spec.sources import Files, Source

RULES = "rules"


def stage_new_files(settings: Settings, source: Source, *, run_id: str, from_the_start: bool = False) -> Staged:
    """Stages the rows of the files that were not read before; `from_the_start` reads all files that there are again.

    All are read where the contract or the origin is another one than last time. Raises as `open_folder` and `stage_increment` do; what was
    staged is then as it was, and the next run reads the same files.
    """
    began, folder = monotonic(), _folder(settings, source)
    with staged_before(settings, source.contract, run_id=run_id, from_the_start=from_the_start) as before:
        target, manifest, known = before.target, before.manifest, FileIndex()
        with staging.passing_over_damage() if from_the_start else nullcontext():
            known = read_index(target.client, target.bucket, manifest)
        news = _news(folder, known, is_whole=from_the_start or not _is_of(source, manifest))
        if manifest is not None and not news.files and news.index == known:
            return Staged(manifest=manifest, seconds=monotonic() - began)
        index = write_index(target.client, target.bucket, source.contract.name, news.index)
        added = Added(source=source, read=frozenset(file.path for file in news.files), known=frozenset(known.files))
        parts = _parts(folder, source, news.files, before.next_position)
        return stage_increment(before, parts, added, {RULES: _rules(source), INDEX: index})


def unread_digest(settings: Settings, source: Source) -> str | None:
    """A digest of the files that a run would look at, by path, size and time; None where there are none. No file is read."""
    target = target_of(settings, source.contract, run_id="look")
    try:
        manifest = staging.manifest_from(target.client, target.bucket, source.contract.name, staging.partition_of(None))
        index = read_index(target.client, target.bucket, manifest)
    except ObjectDamaged:
        # The run that all files ask for is refused, and says what is damaged.
        index = FileIndex()
    unread = index.unread(_folder(settings, source).found(), datetime.now(UTC))
    seen = [(file.path, file.size, file.changed_at) for file in unread]
    return digest_of(seen)[:16] if seen else None


@dataclass(kw_only=True)
class Added:
    """Rows that come beside all that there are: none of those ended, but for versions that are read again and are broken by now.

    read: the paths of the files that are read. known: the paths of the files that had been read by the run before.
    """

    source: Source
    read: frozenset[str]
    known: frozenset[str]
    is_whole: bool = False
    fields: set[str] = field(default_factory=set)
    _broken: list[np.ndarray] = field(default_factory=list)

    def add(self, checked: Checked, found: pa.Table) -> None:
        """Adds a part of the reading, with the versions of its broken rows, as far as they can be read."""
        self.fields |= checked.fields
        self._broken += [version_hashes(self.source.contract, batch) for batch in found.to_batches()]

    def settled(self, quarantined: Sequence[QuarantinedRow]) -> list[int]:
        """The positions of rows of files that are read again, and of files that a run left there which was killed."""
        paths = [None if row.place is None else row.place.rpartition(":")[0] for row in quarantined]
        is_left = [path is not None and (path in self.read or path not in self.known) for path in paths]
        return [row.position for row, is_so in zip(quarantined, is_left, strict=True) if is_so]

    def ends(self, rows: pl.DataFrame) -> pl.Series:
        """Versions that are broken where they stand now."""
        broken = np.unique(np.concatenate([np.empty(0, np.uint64), *self._broken]))
        hashes = rows.select(version_key(self.source.contract)).hash_rows(seed=0).to_numpy()
        return pl.Series(is_in(broken, hashes), dtype=pl.Boolean)


@dataclass(frozen=True, kw_only=True)
class _News:
    """The files to read, in the order of their last change, and the index once they are read."""

    files: list[FoundFile]
    index: FileIndex


def _folder(settings: Settings, source: Source) -> Folder:
    if not isinstance(source.origin, Files):
        raise SourceRefused(source.contract.name, "only files are read by what is new of them")
    return folder_of(settings, source.contract, source.origin)


def _rules(source: Source) -> str:
    return digest_of((source.contract, source.origin))


def _is_of(source: Source, manifest: Manifest | None) -> bool:
    """Whether what is staged was read by this contract and origin."""
    return manifest is not None and manifest.made_from.get(RULES) == _rules(source)


def _news(folder: Folder, before: FileIndex, *, is_whole: bool) -> _News:
    """What is to read: files with a content that no file of the index has, or all, each content once."""
    looked_at = (FileIndex() if is_whole else before).unread(folder.found(), datetime.now(UTC))
    known = set() if is_whole else {seen.digest for seen in before.files.values()}
    files, index = list[FoundFile](), dict(before.files)
    for file in looked_at:
        digest = bytes.fromhex(folder.digest(file))
        index[file.path] = Indexed(file.size, file.changed_at, digest)
        if digest not in known:
            known.add(digest)
            files.append(file)
    return _News(files=files, index=FileIndex(files=index))


def _parts(folder: Folder, source: Source, files: Sequence[FoundFile], position: int) -> Iterator[Part]:
    """The rows of files, each part with the versions of its broken rows."""
    contract = source.contract
    asked = bare(contract, version_key(contract))
    for file in files:
        for part in folder.parts(contract, file, None):
            for checked in placed(part, file.path, position):
                yield checked, pa.Table.from_batches([check_again(source, checked.broken, contract=asked).good])
            position += len(part.lines)
