"""The docs are true: rooms, make targets, commands, settings and links in them exist, and those that exist are in them."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from pipeline_assets.cli import app
from pipeline_assets.core.settings import (
    PREFIX,
    AccessSettings,
    AlertSettings,
    CodeSettings,
    ServeSettings,
    ServiceReader,
    Settings,
    StackSettings,
    WebSettings,
    WorkerSettings,
)

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
ALL_TEXT = "\n".join(page.read_text() for page in PAGES)
README = (ROOT / "README.md").read_text()
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)\)")


def _relative(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=_relative)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    """A link that is no web address names a file or folder of the project."""
    targets = [target for target in LINK.findall(page.read_text()) if "://" not in target]

    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_readme_links_every_room() -> None:
    """The first screen leads to the folder of each of the twelve rooms."""
    rooms = [str(file.parent.relative_to(ROOT)) for file in (ROOT / "pipeline_assets").glob("*/*/assets.py")]

    assert len(rooms) == 12
    assert [room for room in rooms if f"({room})" not in README] == []


def test_every_make_target_is_documented_and_every_documented_one_exists() -> None:
    """Targets of the Makefile and `make X` in the docs are the same names."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    told = {
        first or second for first, second in re.findall(r"`make ([a-z]+)[^`]*`|^make ([a-z]+)(?: +#.*)?$", ALL_TEXT, flags=re.MULTILINE)
    }

    assert told - targets == set()
    assert targets - told == set()


def test_every_command_is_documented() -> None:
    """Each command of `pipeline` is named in the docs."""
    root = get_command(app)
    commands = [
        f"{name} {sub}" if sub else name
        for name, command in getattr(root, "commands", {}).items()
        for sub in (getattr(command, "commands", None) or [""])
    ]

    assert [command for command in commands if f"pipeline {command}" not in ALL_TEXT] == []


def test_every_setting_is_documented() -> None:
    """Each environment variable that the product reads stands in the docs."""
    parts = (
        Settings,
        AccessSettings,
        AlertSettings,
        CodeSettings,
        ServeSettings,
        ServiceReader,
        StackSettings,
        WebSettings,
        WorkerSettings,
    )
    fields = {field for part in parts for field in part.model_fields} - {"given"}
    wanted = [PREFIX + name.upper() for name in sorted(fields)]

    assert [name for name in wanted if name not in ALL_TEXT] == []
