"""Asks the OSV database which known weaknesses the wheels and jars of `sbom.cdx.json` have. `make audit` runs it.

Exit code 0 where none is known, 1 where some are, 2 where the database could not be asked: then nothing is known.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from pipeline_assets.core.foreign import shown

ROOT = Path(__file__).resolve().parents[1]
OSV = "https://api.osv.dev"
# As the interface has it: https://google.github.io/osv.dev/post-v1-querybatch/
MOST_QUERIES, MOST_PAGES = 1000, 100
TIMEOUT_SECONDS, AT_ONCE = 30.0, 8
NONE, SOME, UNKNOWN = 0, 1, 2
# Of a component that is in no other one.
OWN = " on its own"
Purl = str


class NotAskedError(Exception):
    """The database did not answer as it should."""


def main() -> int:
    """Print each weakness with the component that has it and the versions without; the exit code."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--sbom", type=Path, default=ROOT / "sbom.cdx.json")
    options.add_argument("--osv", default=OSV, help="the address of the database")
    asked = options.parse_args()
    places = places_of(json.loads(asked.sbom.read_text(encoding="utf-8"))["components"])
    try:
        with httpx.Client(base_url=asked.osv, timeout=TIMEOUT_SECONDS) as client:
            found = known(client, list(places))
            details = detailed(client, sorted({one for each in found.values() for one in each}))
    except (httpx.HTTPError, NotAskedError) as error:
        sys.stderr.write(
            f"The database of weaknesses at {asked.osv} cannot be asked ({shown(error)}): nothing was checked. "
            "The audit needs a network; --osv names another address.\n"
        )
        return UNKNOWN
    for purl, weaknesses in found.items():
        for one in weaknesses:
            sys.stdout.write(f"{purl}{places[purl]}: {line_of(details[one], purl)}\n")
    count = sum(map(len, found.values()))
    sys.stdout.write(f"{len(places)} components asked for, {count or 'no'} known weaknesses.\n")
    return SOME if count else NONE


def places_of(listed: Sequence[Mapping[str, Any]]) -> dict[Purl, str]:
    """Where each component is, as the end of a sentence: in which other ones, and on its own; empty for one that is on its own alone."""
    found: dict[Purl, list[str]] = {}
    for purl, place in sorted(components(listed)):
        found.setdefault(purl, []).append(place)
    return {purl: " and".join(dict.fromkeys(places)) if places != [OWN] else "" for purl, places in found.items()}


def components(listed: Sequence[Mapping[str, Any]], place: str = OWN) -> Iterator[tuple[Purl, str]]:
    """The address of each component without its qualifiers, and where it is."""
    for one in listed:
        yield one["purl"].partition("?")[0], place
        yield from components(one.get("components", []), f" in {one['name']}")


def known(client: httpx.Client, purls: Sequence[Purl]) -> dict[Purl, list[str]]:
    """The ids of the weaknesses of each component that has some."""
    found: dict[Purl, list[str]] = {}
    for first in range(0, len(purls), MOST_QUERIES):
        left: list[tuple[Purl, str | None]] = [(purl, None) for purl in purls[first : first + MOST_QUERIES]]
        for _ in range(MOST_PAGES):
            left = list(_page(client, left, found))
            if not left:
                break
        else:
            raise NotAskedError(f"more than {MOST_PAGES} pages of answers")
    return found


def _page(
    client: httpx.Client, asked: Sequence[tuple[Purl, str | None]], found: dict[Purl, list[str]]
) -> Iterator[tuple[Purl, str | None]]:
    """Adds what one request brings, and gives back what has more pages."""
    queries = [{"package": {"purl": purl}, **({} if token is None else {"page_token": token})} for purl, token in asked]
    results = _json(client.post("/v1/querybatch", json={"queries": queries})).get("results")
    if not isinstance(results, list) or len(results) != len(asked):
        raise NotAskedError("its answer has not one result per query")
    for (purl, _), result in zip(asked, results, strict=True):
        ids = [str(one["id"]) for one in result.get("vulns", [])]
        if ids:
            found.setdefault(purl, []).extend(ids)
        if result.get("next_page_token"):
            yield purl, str(result["next_page_token"])


def detailed(client: httpx.Client, ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """What the database says of each weakness."""
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        return dict(zip(ids, pool.map(lambda one: _json(client.get(f"/v1/vulns/{one}")), ids), strict=True))


def line_of(weakness: Mapping[str, Any], purl: Purl) -> str:
    """The id with its other names, what it is, and the versions of this component that have it no longer."""
    names = [str(weakness["id"]), *map(str, weakness.get("aliases", []))]
    unversioned = purl.partition("@")[0]
    fixed = [
        str(event["fixed"])
        for affected in weakness.get("affected", [])
        if affected.get("package", {}).get("purl", unversioned) == unversioned
        for each in affected.get("ranges", [])
        if each.get("type") != "GIT"
        for event in each.get("events", [])
        if "fixed" in event
    ]
    remedy = f"fixed in {', '.join(dict.fromkeys(fixed))}" if fixed else "not fixed in any version"
    return f"{shown(', '.join(names))}: {shown(weakness.get('summary') or weakness.get('details', ''))} ({shown(remedy)})"


def _json(answer: httpx.Response) -> dict[str, Any]:
    answer.raise_for_status()
    try:
        found = answer.json()
    except ValueError:
        raise NotAskedError(f"{answer.request.url.path} answered no JSON") from None
    if not isinstance(found, dict):
        raise NotAskedError(f"{answer.request.url.path} answered no JSON object")
    return found


if __name__ == "__main__":
    sys.exit(main())
