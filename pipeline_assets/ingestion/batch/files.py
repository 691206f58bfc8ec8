"""Files of a folder, on disk or on an object store: which there are, which day each belongs to, and their rows.

A file that is being written is left alone: one that was changed some seconds ago, one whose name says so, and one that changed while it was
read, end the load with an error that may be retried. Of files of a partition with the same bytes one is read, whatever they are called.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from itertools import groupby
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa

from pipeline_assets.core.digests import digest_of
from pipeline_assets.core.errors import SettingsMissing, SourceRefused, SourceUnavailable
from pipeline_assets.core.https import authority_for
from pipeline_assets.core.setting_values import FileFolder
from pipeline_assets.core.settings import PREFIX, FolderSettings, Settings
from pipeline_assets.ingestion.batch.file_rows import OpenFile, Part, parts
from pipeline_assets.ingestion.sources.contracts import Checked
from pipeline_assets.spec.contracts import Contract
from pipeline_assets.spec.sources import Files, ParquetFile

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

# How long a file must not have changed; a writer that rests longer than this gives it another name first.
SETTLED = timedelta(seconds=5)
DIGEST_BYTES = 4_000_000
COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
UNFINISHED = (".tmp", ".part", ".partial", ".filepart")
# The codes of a day that a path may have, as regular expressions.
CODES = {"%Y": r"(?P<Y>\d{4})", "%m": r"(?P<m>\d\d)", "%d": r"(?P<d>\d\d)", "%j": r"(?P<j>\d{3})", "%y": r"(?P<y>\d\d)", "%%": "%"}
WILD = {"*": "[^/]*", "?": "[^/]"}


@dataclass(frozen=True, kw_only=True)
class FoundFile:
    """A file below a folder: its path there, its size in bytes, and when it was last changed (UTC)."""

    path: str
    size: int
    changed_at: datetime
    day: date | None = None

    def is_settled(self, now: datetime) -> bool:
        """Whether nobody has changed the file for some seconds."""
        return now - self.changed_at >= SETTLED


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder that is open; paths of `found` are those below it."""

    source: str
    files: "FileSystem"
    root: str
    origin: Files

    def found(self, day: date | None = None) -> list[FoundFile]:
        """The files of a day, or all that the pattern takes, by path; raises SourceRefused where the folder is not there."""
        from pyarrow.fs import FileSelector, FileType

        pattern = _expression(self.origin.pattern)
        below = f"{self.root}/{_steady(self.origin.pattern, day)}".rstrip("/")
        with self._errors():
            if self.files.get_file_info(self.root).type != FileType.Directory:
                raise SourceRefused(self.source, f"folder '{self.origin.folder}' has no directory {self.root}")
            listed = self.files.get_file_info(FileSelector(below, allow_not_found=True, recursive=True))
            found = [_found(pattern, self.root, each) for each in listed if each.type == FileType.File]
        return sorted((each for each in found if each is not None and day in {None, each.day}), key=lambda each: each.path)

    def parts(self, contract: Contract, file: FoundFile, day: date | None) -> Iterator[Part]:
        """The rows of a file, part by part; raises SourceUnavailable for one that is being written."""
        with self.opened(file) as content:
            yield from parts(OpenFile(contract=contract, path=file.path, content=content, day=day), self.origin.format)
        self._require_unchanged(file)

    @contextmanager
    def opened(self, file: FoundFile) -> Iterator[pa.NativeFile]:
        """The content of a file, without its compression; raises SourceUnavailable for one that cannot be read to its end."""
        with self._errors(file.path), self._open(file) as content:
            yield content

    def digest(self, file: FoundFile) -> str:
        """The SHA-256 of a file's bytes."""
        now = datetime.now(UTC)
        if not file.is_settled(now):
            when = f"at {file.changed_at.isoformat()}, by a clock that is ahead" if file.changed_at > now + SETTLED else ""
            raise SourceUnavailable(
                self.source, f"has file '{file.path}', which was changed {when or f'less than {SETTLED.seconds} s ago'}"
            )
        known = sha256()
        with self._errors(file.path), self.files.open_input_stream(f"{self.root}/{file.path}", compression=None) as stream:
            while block := stream.read(DIGEST_BYTES):
                known.update(block)
        return known.hexdigest()

    def _open(self, file: FoundFile) -> pa.NativeFile:
        path = f"{self.root}/{file.path}"
        if isinstance(self.origin.format, ParquetFile):
            return self.files.open_input_file(path)
        return self.files.open_input_stream(path, compression=COMPRESSED.get(PurePosixPath(path).suffix.lower()))

    def _require_unchanged(self, file: FoundFile) -> None:
        with self._errors(file.path):
            now = self.files.get_file_info(f"{self.root}/{file.path}")
        if (now.size, now.mtime) != (file.size, file.changed_at):
            raise SourceUnavailable(self.source, f"changed file '{file.path}' while it was read")

    @contextmanager
    def _errors(self, path: str | None = None) -> Iterator[None]:
        """Errors of the file system as the product's: a file that cannot be read to its end may still be being written."""
        try:
            yield
        except UnicodeDecodeError as error:
            raise SourceRefused(
                self.source, f"folder '{self.origin.folder}' has a file whose name is no UTF-8: {error.object!r}"
            ) from error
        except pa.ArrowNotImplementedError as error:
            raise SourceRefused(self.source, f"file '{path}' has what no reader of it knows: {' '.join(str(error).split())}") from error
        except (pa.ArrowInvalid, OSError, EOFError) as error:
            what = f"folder '{self.origin.folder}'" if path is None else f"file '{path}'"
            raise SourceUnavailable(self.source, f"has {what}, which cannot be read to its end: {' '.join(str(error).split())}") from error


@dataclass(frozen=True, kw_only=True)
class FileReader:
    """Reads the files of days, or of all there are; several threads may use one at a time."""

    contract: Contract
    folder: Folder

    def __call__(self, day: date | None) -> Iterator[Checked]:
        """The rows of a day's files (None: of all), checked; broken ones say in which file and line they stand."""
        position, seen = 0, set[str]()
        for file in self.folder.found(day):
            digest = self.folder.digest(file)
            if digest in seen:
                continue
            seen.add(digest)
            for part in self.folder.parts(self.contract, file, day):
                yield from placed(part, file.path, position)
                position += len(part.lines)


def placed(part: Part, path: str, position: int) -> Iterator[Checked]:
    """A part at its position in the partition, its broken rows with their place in the file."""
    places = np.arange(position, position + len(part.lines))
    for checked in part.checked:
        broken = [replace(row, place=f"{path}:{part.lines[row.position]}") for row in checked.broken]
        yield replace(checked, broken=broken).at(places)


@contextmanager
def open_folder(settings: Settings, contract: Contract, origin: Files) -> Iterator[FileReader]:
    """The files of a source; raises SettingsMissing without a URL of their folder."""
    yield FileReader(contract=contract, folder=folder_of(settings, contract, origin))


def folder_of(settings: FolderSettings, contract: Contract, origin: Files) -> Folder:
    """The folder of a source; raises SettingsMissing without its URL."""
    if origin.folder not in settings.folders:
        raise SettingsMissing([f"{PREFIX}FOLDERS__{origin.folder.upper()}__URL"])
    folder = settings.folders[origin.folder]
    setting = f"{PREFIX}FOLDERS__{origin.folder.upper()}__ENDPOINT"
    authority = None if folder.endpoint is None else authority_for(setting, folder.endpoint, settings)
    files, root = _file_system(folder, authority)
    return Folder(source=contract.name, files=files, root=root, origin=origin)


def _file_system(folder: FileFolder, authority: str | None) -> "tuple[FileSystem, str]":
    from pyarrow.fs import LocalFileSystem, S3FileSystem

    parts = urlsplit(folder.url)
    if parts.scheme == "file":
        return LocalFileSystem(), unquote(parts.path).rstrip("/") or "/"
    own = urlsplit(folder.endpoint) if folder.endpoint is not None else None
    store = S3FileSystem(
        access_key=folder.access_key.get_secret_value() if folder.access_key is not None else None,
        secret_key=folder.secret_key.get_secret_value() if folder.secret_key is not None else None,
        region=folder.region,
        scheme=own.scheme if own is not None else "https",
        endpoint_override=own.netloc if own is not None else None,
        tls_ca_file_path=authority,
    )
    return store, f"{parts.netloc}{parts.path}".rstrip("/")


def days_of(files: Sequence[FoundFile]) -> Mapping[date, str]:
    """The days of files, each with a digest of what there is of it: paths, sizes and times."""
    by_day = groupby(sorted(files, key=lambda each: (each.day or date.min, each.path)), key=lambda each: each.day)
    return {day: _digest_of(list(found)) for day, found in by_day if day is not None}


def _digest_of(files: Sequence[FoundFile]) -> str:
    return digest_of([(each.path, each.size, each.changed_at) for each in files])[:16]


def _expression(pattern: str) -> re.Pattern[str]:
    """The paths that a pattern takes, with the parts of the day by name; a code that stands again has the same value again."""
    seen, expression = set[str](), ""
    for piece in re.findall(r"%.|[*?]|[^%*?]+", pattern):
        is_again = piece in seen and piece in CODES and piece != "%%"
        expression += f"(?P={piece[1]})" if is_again else (CODES | WILD).get(piece) or re.escape(piece)
        seen.add(piece)
    return re.compile(expression)


def _steady(pattern: str, day: date | None) -> str:
    """The directory that all files of a pattern are below; with a day, those of that day."""
    named = re.split(r"[%*?]", pattern)[0] if day is None else re.split(r"[*?]", day.strftime(pattern))[0]
    return named.rpartition("/")[0]


def _found(pattern: re.Pattern[str], root: str, listed: "FileInfo") -> FoundFile | None:
    """A listed file, with its day where the pattern has one; None for one that is not meant or not there yet."""
    path = listed.path.removeprefix(root).lstrip("/")
    match = pattern.fullmatch(path)
    is_unfinished = path.endswith(UNFINISHED) or any(part.startswith((".", "_")) for part in path.split("/"))
    if match is None or is_unfinished:
        return None
    try:
        return FoundFile(path=path, size=listed.size, changed_at=listed.mtime, day=_day(match.groupdict()))
    except ValueError:  # such as the 30th of February
        return None


def _day(codes: Mapping[str, str]) -> date | None:
    if not codes:
        return None
    return datetime.strptime(" ".join(codes.values()), " ".join(f"%{code}" for code in codes)).replace(tzinfo=UTC).date()
