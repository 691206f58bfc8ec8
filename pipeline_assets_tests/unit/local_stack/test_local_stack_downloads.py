"""Downloads from a repository that breaks off, lies, or is not there."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from pipeline_assets.core.errors import ServiceFailed
from pipeline_assets.local_stack import downloads, java
from pipeline_assets.local_stack.downloads import Artifact
from pipeline_assets.local_stack.plan import Plan
from pipeline_assets.local_stack.ports import free_port

CONTENT = bytes(range(256)) * 400
ARTIFACT = Artifact(path="org/example/thing-1.0.jar", sha256=sha256(CONTENT).hexdigest(), size_bytes=len(CONTENT))


def fetch(artifact: Artifact, repository: str, folder: Path) -> Path:
    """The one artifact in the folder."""
    downloads.fetch([(artifact, folder)], repository, lambda _progress: None)
    return folder / artifact.name


class Repository(ThreadingHTTPServer):
    """Serves the content with ranges; the first `breaks` answers stop half way. Remembers what it was asked for."""

    def __init__(self, breaks: int = 0, *, knows_ranges: bool = True) -> None:
        self.breaks, self.knows_ranges = breaks, knows_ranges
        self.asked: list[str | None] = []
        super().__init__(("127.0.0.1", 0), Answer)

    @property
    def url(self) -> str:
        """Where the repository is."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    """One request to the repository."""

    server: Repository

    def do_GET(self) -> None:
        """Send the rest of the content from where the request says."""
        if self.path != f"/{ARTIFACT.path}":
            self.send_error(404)
            return
        asked = self.headers.get("Range") if self.server.knows_ranges else None
        self.server.asked.append(self.headers.get("Range"))
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        is_broken, self.server.breaks = self.server.breaks > 0, self.server.breaks - 1
        self.wfile.write(CONTENT[start : start + 50_000 if is_broken else len(CONTENT)])

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def repository() -> Iterator[Repository]:
    """A repository on loopback."""
    with Repository() as server:
        thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_an_artifact_is_downloaded_once(repository: Repository, tmp_path: Path) -> None:
    """The second call finds the file and asks nobody."""
    first, second = fetch(ARTIFACT, repository.url, tmp_path), fetch(ARTIFACT, repository.url, tmp_path)

    assert first == second == tmp_path / "thing-1.0.jar"
    assert first.read_bytes() == CONTENT
    assert repository.asked == [None]


def test_a_broken_download_goes_on_where_it_stopped(repository: Repository, tmp_path: Path) -> None:
    """What has arrived is not asked for again."""
    repository.breaks = 1

    assert fetch(ARTIFACT, repository.url, tmp_path).read_bytes() == CONTENT
    assert repository.asked == [None, "bytes=50000-"]


def test_a_part_from_a_killed_command_is_continued(repository: Repository, tmp_path: Path) -> None:
    """A part that an earlier process left is used."""
    (tmp_path / "thing-1.0.jar.part").write_bytes(CONTENT[:70_000])

    assert fetch(ARTIFACT, repository.url, tmp_path).read_bytes() == CONTENT
    assert repository.asked == ["bytes=70000-"]


def test_a_repository_without_ranges_is_read_from_the_start(repository: Repository, tmp_path: Path) -> None:
    """Where the answer is the whole file, the part is replaced and not appended to."""
    repository.knows_ranges = False
    (tmp_path / "thing-1.0.jar.part").write_bytes(CONTENT[:70_000])

    assert fetch(ARTIFACT, repository.url, tmp_path).read_bytes() == CONTENT


def test_other_bytes_than_pinned_are_refused_and_deleted(repository: Repository, tmp_path: Path) -> None:
    """A file whose hash is not the pinned one is never used."""
    pinned = Artifact(path=ARTIFACT.path, sha256="0" * 64, size_bytes=ARTIFACT.size_bytes)
    with pytest.raises(ServiceFailed, match=f"sha256 {ARTIFACT.sha256}, expected {'0' * 64}"):
        fetch(pinned, repository.url, tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == []


def test_a_repository_that_is_not_there_is_named_with_the_setting_to_change(tmp_path: Path) -> None:
    """The error says which URL failed and which setting points elsewhere."""
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ServiceFailed, match="PIPELINE_MAVEN_URL") as failure:
        fetch(ARTIFACT, url, tmp_path)

    assert url in str(failure.value)


def test_many_artifacts_are_reported_by_their_size(repository: Repository, tmp_path: Path) -> None:
    """Each lands in its own folder, and progress ends at the whole."""
    reported: list[str] = []
    folders = [tmp_path / str(number) for number in range(20)]
    downloads.fetch([(ARTIFACT, folder) for folder in folders], repository.url, reported.append)

    assert [(folder / ARTIFACT.name).read_bytes() == CONTENT for folder in folders] == [True] * 20
    assert (len(reported), reported[-1]) == (10, "2 of 2 MB")


def test_the_list_of_jars_is_complete_and_pinned() -> None:
    """Each set has the jar that it is named after, each jar a hash and a size, and no set has a jar twice."""
    mains = {
        java.BROKER: "kafka_2.13",
        java.DEBEZIUM: "debezium-connector-postgres",
        java.ICEBERG: "iceberg-kafka-connect-1",
        java.OBJECT_STORE: "s3proxy",
    }
    for name, main in mains.items():
        jars = java.locked(name)
        assert len({jar.name for jar in jars}) == len(jars)
        assert [jar.name for jar in jars if jar.name.startswith(main)] != []
        assert [jar.name for jar in jars if len(jar.sha256) != 64 or jar.size_bytes <= 0] == []


def test_a_jar_that_was_changed_on_this_machine_is_downloaded_again(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service never starts with other bytes than the pinned ones; a file that has them is not asked for again."""
    lock = tmp_path / "jars.json"
    lock.write_text(json.dumps({java.OBJECT_STORE: [asdict(ARTIFACT)]}))
    monkeypatch.setattr(java, "LOCK", lock)
    plan = Plan(root=tmp_path, home=tmp_path, ports={}, secrets={}, given={}, settings={}, maven_url=repository.url)
    java.check(plan, (java.OBJECT_STORE,))
    jar = java.folder(plan.jars, java.OBJECT_STORE) / ARTIFACT.name
    jar.write_bytes(CONTENT[::-1])
    java.check(plan, (java.OBJECT_STORE,))
    java.check(plan, (java.OBJECT_STORE,))

    assert jar.read_bytes() == CONTENT
    assert repository.asked == [None, None]


def test_plugins_bring_nothing_of_the_worker() -> None:
    """A second copy of Connect's classes in a plugin would not be the worker's."""
    brought = [jar.path for name in (java.DEBEZIUM, java.ICEBERG) for jar in java.locked(name)]

    assert [path for path in brought if path.startswith(("org/apache/kafka/", "org/slf4j/", "org/apache/logging/"))] == []


def test_another_list_has_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jars of two versions never stand on one class path."""
    before = java.folder(tmp_path, java.DEBEZIUM)
    lock = tmp_path / "jars.json"
    lock.write_text(java.LOCK.read_text().replace("debezium-connector-postgres-", "debezium-connector-postgres-0"))
    monkeypatch.setattr(java, "LOCK", lock)

    assert java.folder(tmp_path, java.DEBEZIUM) != before
    assert java.folder(tmp_path, java.DEBEZIUM).name == before.name == java.DEBEZIUM
