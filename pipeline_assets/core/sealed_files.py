"""The files of Iceberg tables, sealed as they are written and held against their seals as they are read, whatever of pyiceberg asks.

A read fetches the object as a whole, once: what is used are the bytes that were looked at.
"""

import io
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

import pyarrow as pa
from pyiceberg.io.pyarrow import PyArrowFile, PyArrowFileIO

from pipeline_assets.core import seals
from pipeline_assets.core.sealed_objects import fetched, sealed, verified

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


class SealedFileIO(PyArrowFileIO):
    """pyiceberg's files, with seals; a table's property `pipeline.sealed` says that none may lack one."""

    def new_input(self, location: str) -> "SealedFile":
        """The object at a location, to be read."""
        return self._file(location)

    def new_output(self, location: str) -> "SealedFile":
        """The object at a location, to be written."""
        return self._file(location)

    def _file(self, location: str) -> "SealedFile":
        scheme, netloc, path = self.parse_location(location, self.properties)
        must_be_sealed = self.properties.get(seals.ALL_SEALED) == "true"
        return SealedFile(location, path, self.fs_by_scheme(scheme, netloc), must_be_sealed=must_be_sealed)


class SealedFile(PyArrowFile):
    """An object that is read and written as a whole."""

    def __init__(self, location: str, path: str, fs: "FileSystem", *, must_be_sealed: bool) -> None:
        super().__init__(location, path, fs)
        self._must_be_sealed, self._written = must_be_sealed, -1

    def __len__(self) -> int:
        """How many bytes the object has."""
        return self._written if self._written >= 0 else super().__len__()

    def open(self, seekable: bool = True) -> pa.NativeFile:  # noqa: ARG002, FBT001, FBT002 - as pyiceberg declares it
        """The content, once it was found to be what was written; raises ObjectDamaged if it is not, or not there."""
        content = fetched(self._filesystem, self._path, self.location)
        return pa.BufferReader(verified(content, self.location, must_be_sealed=self._must_be_sealed))

    def create(self, overwrite: bool = False) -> "Sealing":  # noqa: FBT001, FBT002 - as pyiceberg declares it
        """A stream whose bytes become the object, sealed, once it is closed without an error."""
        if not overwrite and self.exists():
            raise FileExistsError(f"Cannot create file, already exists: {self.location}")
        return Sealing(self._put)

    def _put(self, content: bytes) -> None:
        whole = sealed(content, self.location)
        with self._filesystem.open_output_stream(self._path) as opened:
            opened.write(whole)
        self._written = len(whole)


class Sealing(io.BytesIO):
    """What is written to an object, until it is closed."""

    def __init__(self, put: Callable[[bytes], None]) -> None:
        super().__init__()
        self._put = put

    def close(self) -> None:
        """Writes the object."""
        if not self.closed:
            content = self.getvalue()
            super().close()
            self._put(content)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Writes the object, unless there was an error."""
        if kind is None:
            self.close()
        super().close()

    def __del__(self) -> None:
        """Writes nothing that was not closed."""
