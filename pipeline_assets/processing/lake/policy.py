"""When which maintenance of the lake's tables is due."""

from dataclasses import dataclass, replace
from datetime import timedelta


@dataclass(frozen=True, kw_only=True)
class Policy:
    """When which maintenance of a lake table is due.

    A day with at least `min_files` files is rewritten to files of about `target_file_bytes`, if that halves their number. From
    `min_manifests` manifests on, they are merged. The newest `kept_snapshots` snapshots stay, all younger than `snapshot_age`, and those
    that a tag names until they are older than `tagged_age`: what was scored can be read for so long. A file that nothing has referred to
    for `orphan_age` is deleted; it must outlast every run and every reader.
    """

    min_files: int
    target_file_bytes: int
    min_manifests: int
    kept_snapshots: int
    snapshot_age: timedelta
    tagged_age: timedelta
    orphan_age: timedelta


POLICY = Policy(
    min_files=8,
    target_file_bytes=128 << 20,
    min_manifests=50,
    kept_snapshots=20,
    snapshot_age=timedelta(days=7),
    tagged_age=timedelta(days=400),
    orphan_age=timedelta(days=1),
)
# A stream commits every few seconds; nobody reads what its tables were a week ago.
STREAM_POLICY = replace(POLICY, snapshot_age=timedelta(days=1))
