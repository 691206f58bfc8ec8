"""Foreign text as it is shown: nothing of it steers a terminal, forges a line or gives a secret away."""

import io
import logging
import unicodedata
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.core.errors import PipelineError, SourceRefused
from pipeline_assets.core.foreign import in_page, log_safely, masked, shown, shown_lines

STEERING = [
    "\x1b[2J\x1b[1;1H",
    "a\x00b",
    "ok\rWRONG",
    "one\nError: forged",
    "\u202eevil\u202c",
    "\u2066x\u2069",
    "\x9b31m",
    "\u2028x",
    "\ud800",
]


@pytest.mark.parametrize("text", STEERING)
def test_what_steers_a_terminal_is_escaped(text: str) -> None:
    """ESC, NUL, CR, line ends, C1 controls, signs of direction and lone surrogates."""
    assert shown(text).isprintable()
    assert shown(text) != text
    assert shown(text).encode("utf-8")


@given(st.text())
def test_every_sign_is_a_letter_or_escaped(text: str) -> None:
    """No control, format or line sign is left but those that some scripts write words with; what is harmless stays as it is."""
    left = {unicodedata.category(sign) for sign in shown(text, 10_000).replace("\u200c", "").replace("\u200d", "")}

    assert left & {"Cc", "Cf", "Cs", "Zl", "Zp"} == set()
    assert "\n" not in shown(text)
    if text.isprintable():
        assert shown(text, 10_000) == text


def test_words_of_other_scripts_stay() -> None:
    """Letters with accents, right-to-left words and words joined by signs that have no width."""
    for text in ("Žižek · naïve — 12 €", "שלום", "می\u200cخواهم", "東京\u3000駅"):
        assert shown(text) == text


def test_long_text_is_cut_and_counted() -> None:
    """A value of a megabyte is as long as a line."""
    assert shown("x" * 1_000_000) == "x" * 200 + "… (1,000,000 characters)"
    assert len(shown("\x00" * 1_000_000)) < 1_000


def test_lines_stay_where_they_are_wanted() -> None:
    """Of logs: their own lines and tabs, without colours and without what moves the cursor."""
    assert shown_lines("\x1b[32mone\x1b[0m\n\ttwo\x1b[2J\r") == "one\n\ttwo\\x1b[2J\\r"


def test_no_tag_begins_in_a_page_of_somebody_else() -> None:
    """Neither a script nor an image."""
    assert not {"<", ">"} & set(in_page("</script><img src=x onerror=alert(1)>"))


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("you sent Authorization: Bearer abc.def-123", "abc.def-123"),
        ('{"password": "hunter two", "user": "ada"}', "hunter two"),
        ("cannot reach postgresql://ada:hunter2@db/x", "hunter2"),
        ("database.password=hunter2, database.user=ada", "hunter2"),
        ("client_secret=hunter2&grant=x", "hunter2"),
        ("'s3.secret-access-key': 'hunter2'", "hunter2"),
        ("my.own-password=hunter2", "hunter2"),
        ('{"token": "hunter two', "hunter two"),
        ("key k-0123456789 is not known", "k-0123456789"),
    ],
)
def test_secrets_that_a_server_echoes_are_masked(text: str, secret: str) -> None:
    """Those that it was sent, and what is called one by its name."""
    found = masked(text, ["k-0123456789", "x"])

    assert secret not in found
    assert "***" in found


@pytest.mark.parametrize(
    "text",
    [
        "a" * 1_000_000,
        "token" * 200_000,
        "token" + " " * 1_000_000,
        "token='token=\"" * 70_000,
        "bearer " * 150_000,
        "://" * 330_000,
        "://a:" + "b" * 1_000_000,
        "invalid input syntax for type integer: " + "x-1." * 250_000,
    ],
    ids=lambda text: text[:12],
)
def test_a_megabyte_is_masked_at_once(text: str) -> None:
    """Regression: each place of a long word was the beginning of another look at all of it, which took hours."""
    began = process_time()
    found = masked(text, ["k-0123456789"])

    assert process_time() - began < 1.0
    assert len(found) <= 20_000


def test_a_secret_at_the_end_of_what_is_shown_is_masked() -> None:
    """It is looked for in more than is left of a long text."""
    found = masked("x " * 9_995 + "k-0123456789 and so on", ["k-0123456789"])

    assert "k-0" not in found
    assert "***" in found


def test_ordinary_words_are_not_masked() -> None:
    """A message that only speaks of secrets stays as it is."""
    for text in ("the token has expired", "no such reading", "wrong password", "basic access is over"):
        assert masked(text) == text


def test_an_error_of_the_product_steers_no_terminal() -> None:
    """Whatever is foreign in it; its own lines stay."""
    error = SourceRefused("plant\x1b[2J", "answered\r\u202e nothing")

    assert str(error).isprintable()
    assert str(PipelineError("one\ntwo")) == "one\ntwo"
    assert len(str(PipelineError("x" * 1_000_000))) < 21_000


def test_a_log_has_no_line_that_somebody_else_wrote() -> None:
    """Neither by a message nor by an error that is logged with its trace."""
    stream, before = io.StringIO(), logging.getLogRecordFactory()
    logger = logging.getLogger("foreign")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.propagate = False
    log_safely()
    try:
        logger.error("refused: %s", "no\x1b[2J\nINFO all is well")
        logger.error("failed", exc_info=ValueError("no\x1b[2J\nINFO all is well"))
    finally:
        logging.setLogRecordFactory(before)
        logger.removeHandler(handler)

    lines = stream.getvalue().splitlines()
    assert [line for line in lines if not line.startswith(("ERROR", "  "))] == []
    assert "\x1b" not in stream.getvalue()
