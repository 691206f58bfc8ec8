"""The list of what the product is made of, and the audit that asks a server with the interface of OSV about it."""

import importlib
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from pipeline_assets.local_stack.downloads import Artifact
from pipeline_assets.local_stack.java import LOCK
from pipeline_assets.local_stack.ports import free_port
from pipeline_assets_tests.prediction_pages import served

ROOT = Path(__file__).resolve().parents[3]
UV = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
LANG, YAML = "pkg:maven/org.apache.commons/commons-lang3@3.12.0", "pkg:maven/org.yaml/snakeyaml@1.33"
SBOM = {
    "components": [
        {"name": "clean", "purl": "pkg:pypi/clean@1.0"},
        {"name": "commons-lang3", "purl": LANG},
        {"name": "all-in-one", "purl": "pkg:maven/org.example/all-in-one@1?classifier=fat", "components": [{"name": "y", "purl": YAML}]},
    ]
}
WEAKNESSES: dict[str, dict[str, Any]] = {
    "GHSA-1": {
        "id": "GHSA-1", "aliases": ["CVE-2025-48924"], "summary": "a long name ends it\x1b[2J",
        "affected": [
            {
                "package": {"purl": "pkg:maven/org.apache.commons/commons-lang3"},
                "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "3.0"}, {"fixed": "3.18.0"}]}],
            },
            {
                "package": {"purl": "pkg:maven/commons-lang/commons-lang"},
                "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9.9"}]}],
            },
        ],
    },
    "GHSA-2": {"id": "GHSA-2", "details": "it makes any object"},
    "GHSA-3": {"id": "GHSA-3", "summary": "on the second page"},
}  # fmt: skip


class Osv:
    """A server with OSV's interface, which has the second page of one answer for those that ask for it."""

    def __init__(self) -> None:
        self.pages = {(LANG, None): {"vulns": [{"id": "GHSA-1"}], "next_page_token": "more"}, (LANG, "more"): {"vulns": [{"id": "GHSA-3"}]}}
        self.pages[YAML, None] = {"vulns": [{"id": "GHSA-2"}]}
        self.asked: list[str] = []

    async def batch(self, request: Request) -> Response:
        """A result for each query, empty where nothing is known."""
        queries = (await request.json())["queries"]
        self.asked += [query["package"]["purl"] for query in queries]
        return JSONResponse({"results": [self.pages.get((query["package"]["purl"], query.get("page_token")), {}) for query in queries]})

    async def weakness(self, request: Request) -> Response:
        """All of one."""
        return JSONResponse(WEAKNESSES[request.path_params["id"]])

    def app(self) -> Starlette:
        """The server."""
        return Starlette(routes=[Route("/v1/querybatch", self.batch, methods=["POST"]), Route("/v1/vulns/{id}", self.weakness)])


def audit(tmp_path: Path, url: str, sbom: object = SBOM) -> subprocess.CompletedProcess[str]:
    """The audit of a list at a server."""
    path = tmp_path / "sbom.cdx.json"
    path.write_text(json.dumps(sbom))
    command = (sys.executable, str(ROOT / "tools" / "audit.py"), "--sbom", str(path), "--osv", url)
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_audit_names_each_weakness_with_its_component_and_remedy(tmp_path: Path) -> None:
    """Of all pages, also of libraries in a jar; what the database says steers no terminal."""
    osv = Osv()
    with served(osv.app()) as url:
        found = audit(tmp_path, url)

    assert found.returncode == 1, found.stderr
    assert f"{LANG}: GHSA-1, CVE-2025-48924: a long name ends it\\x1b[2J (fixed in 3.18.0)\n" in found.stdout
    assert f"{LANG}: GHSA-3: on the second page (not fixed in any version)\n" in found.stdout
    assert f"{YAML} in all-in-one: GHSA-2: it makes any object (not fixed in any version)\n" in found.stdout
    assert "4 components asked for, 3 known weaknesses." in found.stdout
    assert "pkg:maven/org.example/all-in-one@1" in osv.asked


def test_the_audit_names_every_place_of_a_component(tmp_path: Path) -> None:
    """Regression: of a library that stands on its own and in other jars one place alone was named, the last jar."""
    within = [{"name": name, "purl": f"pkg:maven/a/{name}@1", "components": [{"name": "l", "purl": LANG}]} for name in ("fat", "fatter")]
    with served(Osv().app()) as url:
        found = audit(tmp_path, url, {"components": [*SBOM["components"][1:2], *within]})

    assert f"{LANG} in fat and in fatter and on its own: GHSA-1" in found.stdout
    assert "3 components asked for, 2 known weaknesses." in found.stdout


def test_the_audit_is_green_where_nothing_is_known(tmp_path: Path) -> None:
    """Exit code 0, and it says how many components it asked for."""
    with served(Osv().app()) as url:
        found = audit(tmp_path, url, {"components": SBOM["components"][:1]})

    assert (found.returncode, found.stdout) == (0, "1 components asked for, no known weaknesses.\n")


@pytest.mark.parametrize(
    "answer",
    [PlainTextResponse("down", 503), PlainTextResponse("<html>"), JSONResponse({"results": []})],
    ids=["down", "no JSON", "no results"],
)
def test_the_audit_is_never_green_without_an_answer(tmp_path: Path, answer: Response) -> None:
    """A server that fails, or is another one, ends it with exit code 2 and a sentence."""
    with served(Starlette(routes=[Route("/v1/querybatch", lambda _: answer, methods=["POST"])])) as url:
        found = audit(tmp_path, url)

    assert found.returncode == 2
    assert "nothing was checked" in found.stderr
    assert "Traceback" not in found.stderr


def test_the_audit_says_that_it_needs_a_network(tmp_path: Path) -> None:
    """Where nobody listens: exit code 2, a sentence, and how to name another address."""
    found = audit(tmp_path, f"http://127.0.0.1:{free_port()}")

    assert found.returncode == 2
    assert "The audit needs a network; --osv names another address." in found.stderr


def test_the_list_has_all_wheels_and_jars_with_their_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each once, under its own reference, with its address as a package; jars that have others in them list these."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    sbom = importlib.import_module("sbom")
    wheels = sbom.wheels(UV)["components"]
    fat = tmp_path / "fat-1.0-all.jar"
    with zipfile.ZipFile(fat, "w") as archive:
        archive.writestr("META-INF/maven/org.yaml/snakeyaml/pom.properties", "version=1.33\ngroupId=org.yaml\nartifactId=snakeyaml\n")
        archive.writestr("META-INF/maven/org.example/fat/pom.properties", "version=1.0\ngroupId=org.example\nartifactId=fat\n")
        archive.writestr("META-INF/maven/broken/pom.properties", "version=1")
    jar = sbom.component(Artifact(path="org/example/fat/1.0/fat-1.0-all.jar", sha256="ab" * 32, size_bytes=1), tmp_path)

    assert {"dagster", "mlflow", "pyiceberg"} <= {one["name"] for one in wheels}
    assert all(one["purl"].startswith("pkg:pypi/") and one["externalReferences"][0]["hashes"] for one in wheels)
    assert len({one["bom-ref"] for one in wheels}) == len(wheels)
    assert (jar["purl"], jar["hashes"]) == ("pkg:maven/org.example/fat@1.0?classifier=all", [{"alg": "SHA-256", "content": "ab" * 32}])
    assert [(one["purl"], one["bom-ref"]) for one in jar["components"]] == [(YAML, f"{jar['purl']}#{YAML}")]


def test_no_jar_has_the_weakness_that_was_found() -> None:
    """CVE-2025-48924 is in commons-lang3 before 3.18.0; ORC still asks for 3.12.0."""
    paths = [jar["path"] for jars in json.loads(LOCK.read_text()).values() for jar in jars]
    versions = [path.split("/")[-2] for path in paths if "/commons-lang3/" in path]

    assert versions
    assert all(tuple(map(int, version.split("."))) >= (3, 18, 0) for version in versions)
