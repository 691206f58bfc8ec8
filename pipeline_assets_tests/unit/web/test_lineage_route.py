"""The page of column lineage on the web server: made once for many, and its failure is said."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx
from starlette.applications import Starlette

from pipeline_assets.web.lineage import LineagePage


def asking(folder: Path, script: str) -> Callable[[], httpx.Response]:
    """Asks a server whose page a script makes, which gets `--out FILE` at the end."""
    program = folder / "pipeline"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    app = Starlette(routes=[LineagePage(program).route()])

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            return await client.get("/_lineage")

    return lambda: asyncio.run(ask())


def test_the_page_is_made_once_for_those_who_ask_soon_after(tmp_path: Path) -> None:
    """It is the file that the command wrote, may load and run nothing, and is not made for each request."""
    ask = asking(tmp_path, f'echo once >> "{tmp_path}/made"; printf "<p>%s %s</p>" "$1" "$2" > "$4"')
    first, second = ask(), ask()

    assert (first.status_code, first.text, first.headers["content-type"]) == (200, "<p>features lineage</p>", "text/html; charset=utf-8")
    assert first.headers["content-security-policy"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert second.text == first.text
    assert (tmp_path / "made").read_text() == "once\n"


def test_a_project_that_cannot_be_read_says_why_until_it_can(tmp_path: Path) -> None:
    """The last words of the command, as text; the next request tries again."""
    ask = asking(tmp_path, f'test -e "{tmp_path}/mended" && echo ok > "$4" && exit; echo "No model <x>." >&2; exit 1')
    failed = ask()
    (tmp_path / "mended").touch()

    assert (failed.status_code, failed.headers["content-type"]) == (503, "text/plain; charset=utf-8")
    assert failed.text == "`pipeline features lineage` failed.\nNo model <x>.\n"
    assert ask().text == "ok\n"
