"""Files from a Maven repository: pinned by their hash, kept, and continued where a download broke off."""

import fcntl
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_assets.core.errors import ServiceFailed
from pipeline_assets.core.state_errors import check_is_file

if TYPE_CHECKING:
    import httpx

ATTEMPTS = 5
AT_ONCE = 8
REPORTS = 10
TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One file of a Maven repository, by its path there, and what its bytes must be."""

    path: str
    sha256: str
    size_bytes: int

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.path.rpartition("/")[2]


def is_there(artifact: Artifact, folder: Path) -> bool:
    """The artifact is in the folder, by name and size."""
    target = folder / artifact.name
    return target.exists() and target.stat().st_size == artifact.size_bytes


def fetch(wanted: Sequence[tuple[Artifact, Path]], repository: str, report: Callable[[str], None]) -> None:
    """Download the artifacts that are not in their folders yet, several at a time; `report` is called after every tenth part.

    Raises ServiceFailed if one cannot be had or has other bytes. What was downloaded before is kept, and the next call goes on from there.
    """
    import httpx

    total, done, reported = sum(artifact.size_bytes for artifact, _ in wanted), 0, 0
    # Few connections for many files: a new one for each costs more than a small file, and some mirrors make many wait.
    with httpx.Client(timeout=TIMEOUT_SECONDS, follow_redirects=True) as client, ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        # The largest first: the last one to end should be a small one.
        ordered = sorted(wanted, key=lambda each: -each[0].size_bytes)
        begun = {pool.submit(_fetch, client, artifact, repository, folder): artifact.size_bytes for artifact, folder in ordered}
        try:
            for future in as_completed(begun):
                future.result()
                done += begun[future]
                if REPORTS * done // total > reported:
                    reported = REPORTS * done // total
                    report(f"{done / 1e6:.0f} of {total / 1e6:.0f} MB")
        finally:
            pool.shutdown(cancel_futures=True)


def _fetch(client: "httpx.Client", artifact: Artifact, repository: str, folder: Path) -> None:
    if is_there(artifact, folder):
        return
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{artifact.name}.part"
    check_is_file(part, "Delete it")
    with part.open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_there(artifact, folder):
            _download_checked(client, artifact, f"{repository.rstrip('/')}/{artifact.path}", part)
            part.rename(folder / artifact.name)


def _download_checked(client: "httpx.Client", artifact: Artifact, url: str, part: Path) -> None:
    _download(client, artifact, url, part)
    found = sha256_of(part)
    if found != artifact.sha256:
        part.unlink()
        raise ServiceFailed(artifact.name, f"was downloaded from {url} with sha256 {found}, expected {artifact.sha256}; it was deleted")


def sha256_of(path: Path) -> str:
    """The hash of a file's bytes, in hex."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _download(client: "httpx.Client", artifact: Artifact, url: str, part: Path) -> None:
    import stamina
    from httpx import HTTPError

    try:
        for attempt in stamina.retry_context(on=HTTPError, attempts=ATTEMPTS, timeout=None):
            with attempt:
                _continue(client, artifact, url, part)
    except HTTPError as error:
        problem = f"cannot be downloaded from {url}: {error}. Run the command again to continue, or set PIPELINE_MAVEN_URL to a mirror"
        raise ServiceFailed(artifact.name, problem) from error


def _continue(client: "httpx.Client", artifact: Artifact, url: str, part: Path) -> None:
    import httpx

    have = part.stat().st_size if part.exists() else 0
    if have >= artifact.size_bytes:
        return
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    with client.stream("GET", url, headers=headers) as response:
        response.raise_for_status()
        is_rest = response.status_code == httpx.codes.PARTIAL_CONTENT
        with part.open("ab" if is_rest else "wb") as file:
            for chunk in response.iter_bytes():
                file.write(chunk)
            os.fsync(file.fileno())
