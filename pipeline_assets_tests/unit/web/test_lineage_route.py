"""The page of column lineage on the web server: made once for many, and its failure is said."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from pipeline_assets.web import lineage
from pipeline_assets.web.lineage import LineagePage


def asking(folder: Path, script: str) -> Callable[[int], list[httpx.Response]]:
    """Asks so many times at once a server whose page a script makes, which gets `--out FILE` at the end."""
    program = folder / "pipeline"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    app = Starlette(routes=[LineagePage(program).route()])

    async def ask(times: int) -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            return await asyncio.gather(*(client.get("/_lineage") for _ in range(times)))

    return lambda times: asyncio.run(ask(times))


def test_the_page_is_made_once_for_all_who_ask(tmp_path: Path) -> None:
    """It is the file that the command wrote, may load and run nothing, and is not made for each request."""
    ask = asking(tmp_path, f'echo once >> "{tmp_path}/made"; printf "<p>%s %s</p>" "$1" "$2" > "$4"')
    first, *others = [*ask(3), *ask(1)]

    assert (first.status_code, first.text, first.headers["content-type"]) == (200, "<p>features lineage</p>", "text/html; charset=utf-8")
    assert first.headers["content-security-policy"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert [other.text for other in others] == [first.text] * 3
    assert (tmp_path / "made").read_text() == "once\n"


def test_a_project_that_cannot_be_read_says_why_until_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last words of the command, as text, made once for those who ask together; it is tried again a little later."""
    script = f'echo once >> "{tmp_path}/made"; test -e "{tmp_path}/mended" && echo ok > "$4" && exit; echo "No model <x>." >&2; exit 1'
    ask = asking(tmp_path, script)
    failed = ask(3)
    made = (tmp_path / "made").read_text()
    monkeypatch.setattr(lineage, "monotonic", lambda: time.monotonic() + lineage.FAILED_SECONDS)
    (tmp_path / "mended").touch()

    assert [(one.status_code, one.headers["content-type"]) for one in failed] == [(503, "text/plain; charset=utf-8")] * 3
    assert {one.text for one in failed} == {"`pipeline features lineage` failed.\nNo model <x>.\n"}
    assert made == "once\n"
    assert ask(1)[0].text == "ok\n"


@pytest.mark.parametrize(("script", "words"), [("sleep 60", "was not made within"), (None, "cannot be started")])
def test_a_command_that_hangs_or_is_not_there_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, words: str
) -> None:
    """And nobody waits longer than a page may take."""
    monkeypatch.setattr(lineage, "LONGEST_SECONDS", 0.2)
    ask = asking(tmp_path, script or "")
    if script is None:
        (tmp_path / "pipeline").unlink()

    (answer,) = ask(1)
    assert (answer.status_code, words in answer.text) == (503, True)
