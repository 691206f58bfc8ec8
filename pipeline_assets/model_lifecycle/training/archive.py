"""Training sets on the object store: each under the hash of its bytes, with a record that says where it came from.

A record is written after its file and only for a set that passed its checks, so a set that has a record is whole and leaks nothing.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_assets.core import names, sealed_json
from pipeline_assets.core.connections import object_store
from pipeline_assets.core.errors import ArtifactCorrupt, NotTrained, UserInputError
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.training.blocks import Block
from pipeline_assets.model_lifecycle.training.dataset import blocks
from pipeline_assets.spec.models import Model

SUFFIX = ".parquet"


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """A training set and where it came from: `path` on the object store, the hash of its bytes, the lake snapshots that were read."""

    model: str
    as_of: datetime
    path: str
    sha256: str
    size_bytes: int
    rows: int
    blocks: tuple[Block, ...]
    snapshots: Mapping[str, int]

    @property
    def name(self) -> str:
        """What names this set alone: its `as_of` and the hash of its bytes."""
        return f"{_moment(self.as_of)}-{self.sha256}"

    def to_json(self) -> str:
        """The record as canonical JSON; times are ISO 8601 in UTC."""
        return json.dumps(asdict(self), sort_keys=True, default=datetime.isoformat)

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> "TrainingSet":
        """The record of which these are the fields of its JSON."""
        parts = {"as_of": datetime.fromisoformat(stored["as_of"]), "blocks": tuple(map(Block.from_stored, stored["blocks"]))}
        return cls(**{**stored, **parts})


def store(settings: Settings, model: Model, training_set: pa.Table, as_of: datetime, snapshots: Mapping[str, int]) -> TrainingSet:
    """Writes the rows under the hash of their bytes; the same rows again are the same file. No record is written yet."""
    content = _parquet(training_set)
    digest = sha256(content).hexdigest()
    key = f"{_folder(model)}/{digest}{SUFFIX}"
    object_store(settings).put_object(Bucket=settings.s3_bucket, Key=key, Body=content)
    return TrainingSet(
        model=model.name,
        as_of=as_of,
        path=f"s3://{settings.s3_bucket}/{key}",
        sha256=digest,
        size_bytes=len(content),
        rows=training_set.num_rows,
        blocks=blocks(model, training_set, as_of),
        snapshots=dict(snapshots),
    )


def publish(settings: Settings, model: Model, record: TrainingSet) -> None:
    """Makes a stored training set one that candidates can be learned from."""
    sealed_json.write(object_store(settings), settings.s3_bucket, _record_key(model, record.name), record.to_json().encode())


def named(settings: Settings, model: Model, name: str) -> TrainingSet:
    """The published training set of that name; raises NotTrained if there is none."""
    client = object_store(settings)
    try:
        return sealed_json.read(client, settings.s3_bucket, _record_key(model, name), TrainingSet.from_stored)
    except client.exceptions.NoSuchKey as error:
        raise NotTrained(model.name, f"training set {name}", "/".join(names.training_set(model.name))) from error


def find(settings: Settings, model: Model, *, as_of: datetime | None = None, digest: str | None = None) -> TrainingSet:
    """The one published training set as of a time, of a SHA-256, or of both.

    Raises NotTrained if there is none, and UserInputError if there are several: the caller has to name one.
    """
    start = "" if as_of is None else _moment(as_of)
    found = [name for name in _published(settings, model, start) if digest is None or name.endswith(f"-{digest}")]
    times = [f"as of {as_of.isoformat()}"] if as_of is not None else []
    wanted = " ".join([*times, *([f"with the SHA-256 {digest}"] if digest is not None else [])])
    if not found:
        raise NotTrained(model.name, f"training set {wanted}", "/".join(names.training_set(model.name)))
    if found[1:]:
        listed = ", ".join(found)
        raise UserInputError(f"Model '{model.name}' has {len(found)} training sets {wanted}: {listed}. Give both the time and the SHA-256.")
    return named(settings, model, found[0])


def read(settings: Settings, record: TrainingSet) -> pa.Table:
    """The rows of a training set; raises ArtifactCorrupt if the bytes are not those that were written."""
    return read_path(settings, record.path, record.sha256)


def read_path(settings: Settings, path: str, digest: str) -> pa.Table:
    """The rows of the training set at `path`; raises ArtifactCorrupt if its bytes have another SHA-256, or are not there.

    Of a set that rows were forgotten from these are the rows that are left.
    """
    bucket, _, key = path.removeprefix("s3://").partition("/")
    client = object_store(settings)
    try:
        content = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    except client.exceptions.NoSuchKey as error:
        left = _left_of(settings, path)
        if left is None:
            raise ArtifactCorrupt(path, digest, None) from error
        return read_path(settings, *left)
    found = sha256(content).hexdigest()
    if found != digest:
        raise ArtifactCorrupt(path, digest, found)
    return pq.read_table(pa.BufferReader(content))


def files_of(settings: Settings, model: Model) -> list[str]:
    """The paths of all training sets of a model that are on the store, whether they are published or not."""
    pages = object_store(settings).get_paginator("list_objects_v2").paginate(Bucket=settings.s3_bucket, Prefix=f"{_folder(model)}/")
    keys = (one["Key"] for page in pages for one in page.get("Contents", ()))
    return sorted(f"s3://{settings.s3_bucket}/{key}" for key in keys if key.endswith(SUFFIX))


def digest_of(path: str) -> str:
    """The SHA-256 that a training set has in its name."""
    return path.rpartition("/")[2].removesuffix(SUFFIX)


def leave(settings: Settings, model: Model, path: str, rows: pa.Table) -> None:
    """Has a training set consist of some of its rows from now on, under the hash of their bytes, which is noted; its file is deleted."""
    client, content = object_store(settings), _parquet(rows)
    digest = sha256(content).hexdigest()
    new, old = f"{_folder(model)}/{digest}{SUFFIX}", path.removeprefix(f"s3://{settings.s3_bucket}/")
    client.put_object(Bucket=settings.s3_bucket, Key=new, Body=content)
    note = json.dumps({"path": f"s3://{settings.s3_bucket}/{new}", "sha256": digest})
    sealed_json.write(client, settings.s3_bucket, _note_key(old), note.encode())
    client.delete_object(Bucket=settings.s3_bucket, Key=old)


def _left_of(settings: Settings, path: str) -> tuple[str, str] | None:
    """Path and SHA-256 of what is left of a training set; None where nothing was taken out of it."""
    client, key = object_store(settings), _note_key(path.removeprefix(f"s3://{settings.s3_bucket}/"))
    try:
        return sealed_json.read(client, settings.s3_bucket, key, lambda noted: (str(noted["path"]), str(noted["sha256"])))
    except client.exceptions.NoSuchKey:
        return None


def _note_key(key: str) -> str:
    folder, _, name = key.rpartition("/")
    return f"{folder}/left/{name.removesuffix(SUFFIX)}.json"


def _parquet(training_set: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    # Without metadata of the library that made the table, and in one chunk: the same rows are the same bytes.
    pq.write_table(training_set.replace_schema_metadata(None).combine_chunks(), sink, compression="zstd", compression_level=3)
    return bytes(sink.getvalue())


def _folder(model: Model) -> str:
    return "/".join(names.training_set(model.name))


def _published(settings: Settings, model: Model, start: str) -> list[str]:
    """The names of the published sets that begin with `start`, in the order of their times."""
    folder = f"{_folder(model)}/records/"
    pages = object_store(settings).get_paginator("list_objects_v2").paginate(Bucket=settings.s3_bucket, Prefix=folder + start)
    keys = [one["Key"] for page in pages for one in page.get("Contents", ())]
    return sorted(key.removeprefix(folder).removesuffix(".json") for key in keys)


def _record_key(model: Model, name: str) -> str:
    return f"{_folder(model)}/records/{name}.json"


def _moment(as_of: datetime) -> str:
    """A time as part of a file name."""
    return f"{as_of.astimezone(UTC):%Y%m%dT%H%M%S%fZ}"
