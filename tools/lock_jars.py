"""Writes `pipeline_assets/local_stack/jars.json`: the exact jars of the broker, of Connect, of its plugins and of the object store.

Run by a developer who changes a version below: `.venv/bin/python tools/lock_jars.py`. It resolves as Maven would, without Maven, downloads
each jar into `.pipeline/jars` and writes down path, size and sha256. A user's machine resolves nothing: it downloads the files of the list.
"""

import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
from jgo.maven import Dependency, MavenContext
from jgo.parse import Coordinate

from pipeline_assets.core.settings import read_stack_settings
from pipeline_assets.local_stack.downloads import sha256_of

LOCK = Path(__file__).resolve().parents[1] / "pipeline_assets" / "local_stack" / "jars.json"
# 4.4.0 lacks the artifacts of Connect.
KAFKA, LOG4J = "4.3.1", "2.25.4"
# The parent of 3.7.1 is missing.
DEBEZIUM = "3.7.0.Final"
ICEBERG, AWS, HADOOP, COMMONS_LANG = "1.12.0", "2.57.8", "3.5.0", "3.20.0"
S3PROXY = "org.gaul:s3proxy:4.1.0:jar-with-dependencies"
ROOTS = {
    "kafka": [
        *(f"org.apache.kafka:{name}:{KAFKA}" for name in ("kafka_2.13", "kafka-server", "kafka-tools", "connect-runtime", "connect-json")),
        f"org.apache.kafka:connect-transforms:{KAFKA}",
        *(f"org.apache.logging.log4j:log4j-{name}:{LOG4J}" for name in ("api", "core", "slf4j-impl", "1.2-api")),
    ],
    # Whoever asks the REST interface of Connect needs a password.
    "connect-login": [f"org.apache.kafka:connect-basic-auth-extension:{KAFKA}"],
    "debezium": [f"io.debezium:debezium-connector-postgres:{DEBEZIUM}"],
    "iceberg": [
        *(f"org.apache.iceberg:iceberg-kafka-connect{name}:{ICEBERG}" for name in ("", "-events", "-transforms")),
        *(f"org.apache.iceberg:iceberg-{name}:{ICEBERG}" for name in ("core", "data", "parquet", "aws")),
        *(f"software.amazon.awssdk:{name}:{AWS}" for name in ("s3", "sts", "kms", "apache-client")),
        *(f"org.apache.hadoop:hadoop-client-{name}:{HADOOP}" for name in ("api", "runtime")),
        "org.postgresql:postgresql:42.7.14",
        # ORC brings 3.12.0, which a long class name brings down (CVE-2025-48924, to 3.17.0). It may go once ORC's is newer.
        f"org.apache.commons:commons-lang3:{COMMONS_LANG}",
    ],
}
# The worker brings these; a second copy in a plugin would make classes that are not the worker's.
OF_THE_WORKER = (("org.apache.kafka", "*"), ("org.slf4j", "*"), ("org.apache.logging.log4j", "*"), ("ch.qos.reload4j", "*"))
SCOPES = {None, "compile", "runtime"}


def main() -> None:
    """Resolve every set, download what is new, and write the list."""
    repository = read_stack_settings().maven_url.rstrip("/")
    with tempfile.TemporaryDirectory() as cache:
        maven = MavenContext(repo_cache=Path(cache), remote_repos={"central": repository}, timeout=60)
        sets = {name: resolved(maven, name, roots) for name, roots in ROOTS.items()}
        # What it needs the worker has.
        sets["connect-login"] = [path for path in sets["connect-login"] if path not in sets["kafka"]]
        sets["s3"] = [path_of(dependency(maven, S3PROXY, plugin=False))]
        with ThreadPoolExecutor(max_workers=8) as pool:
            locked = {name: list(pool.map(lambda path: lock(repository, path, Path(cache)), paths)) for name, paths in sets.items()}
    LOCK.write_text(json.dumps(locked, indent=1) + "\n", encoding="utf-8")
    for name, jars in locked.items():
        sys.stdout.write(f"{name}: {len(jars)} jars, {sum(int(jar['size_bytes']) for jar in jars) / 1e6:.0f} MB\n")


def dependency(maven: MavenContext, coordinate: str, *, plugin: bool) -> Dependency:
    """A root of a set, without what the worker brings if it is of a plugin; what it would manage binds its own dependencies only."""
    excluded = [maven.project(*each) for each in OF_THE_WORKER] if plugin else []
    return maven.create_dependency(replace(Coordinate.parse(coordinate), raw=True), excluded)


def resolved(maven: MavenContext, name: str, roots: list[str]) -> list[str]:
    """The paths of all jars of a set in the repository, in alphabetical order."""
    asked = [dependency(maven, root, plugin=name != "kafka") for root in roots]
    inputs, transitive = maven.resolver.resolve(asked)
    return sorted({path_of(each) for each in (*inputs, *transitive) if each.scope in SCOPES and each.type == "jar"})


def path_of(jar: Dependency) -> str:
    """Where a jar is in a repository."""
    return f"{jar.artifact.component.path_prefix.as_posix()}/{jar.artifact.filename}"


def lock(repository: str, path: str, folder: Path) -> dict[str, str | int]:
    """Path, hash and size of a jar, which is downloaded for it."""
    target = folder / path.replace("/", "_")
    with httpx.stream("GET", f"{repository}/{path}", timeout=60, follow_redirects=True) as response, target.open("wb") as file:
        response.raise_for_status()
        for chunk in response.iter_bytes():
            file.write(chunk)
    return {"path": path, "sha256": sha256_of(target), "size_bytes": target.stat().st_size}


if __name__ == "__main__":
    main()
