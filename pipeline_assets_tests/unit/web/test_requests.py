"""What the guard of the web pages reads of a request, without a server."""

import json
from pathlib import Path

import pytest
from graphql import GraphQLError

from pipeline_assets.core.errors import UserInputError
from pipeline_assets.core.settings import AccessSettings, WebSettings
from pipeline_assets.serving.realtime.access.problems import Refusal
from pipeline_assets.web.operations import LONGEST_KEPT, LONGEST_QUERY, Operation, by_post, change_of, kept_mutations, mutations
from pipeline_assets.web.origins import host_names, is_of_this_machine, unknown_host
from pipeline_assets.web.webserver import serve


@pytest.mark.parametrize(
    ("query", "changes"),
    [
        ("{ version }", ()),
        ("subscription { a }", ()),
        ("query mutation { mutation: version }", ()),
        ("mutation { b: launchRun }", ("launchRun",)),
        ("query A { a } mutation B { one two }", ("one", "two")),
        ("mutation { ...F } fragment F on Mutation { launchRun }", ("…",)),
        ("mutation { setNuxSeen ...F } fragment F on Mutation { launchRun }", ("setNuxSeen", "…")),
        ("mutation { " + "a" * 1_000 + " }", ("a" * 64,)),
        ("# mutation\n{ a }", ()),
        ("\ufeffmutation{one}", ("one",)),
    ],
)
def test_the_mutations_of_a_document_are_named(query: str, changes: tuple[str, ...]) -> None:
    """By their fields, whatever they are called and whichever operation is the one to be executed."""
    assert mutations(query) == changes


def test_what_is_too_long_is_not_read() -> None:
    """More tokens than any page sends."""
    with pytest.raises(GraphQLError):
        mutations("{" + " a" * 200_000 + "}")


def asked(query: str) -> Operation | Refusal:
    """What a POST of a query asks."""
    return by_post(json.dumps({"query": query}).encode())


def test_what_the_audit_log_leaves_out_has_a_sign() -> None:
    """Regression: of eleven mutations ten harmless ones were named, and nothing said that there was another."""
    ten = [f"harmless{number}" for number in range(10)]

    assert asked(f"mutation {{ {' '.join(ten)} }}") == Operation(changes=tuple(ten))
    assert asked(f"mutation {{ {' '.join(ten)} launchRun }}") == Operation(changes=(*ten, "…"))


def test_long_queries_are_neither_kept_nor_read() -> None:
    """Regression: each comment of 16 MB was read on the event loop, and kept as the key of a cache."""
    kept_mutations.cache_clear()
    long, too_long = ("#" * size + "\nmutation { one }" for size in (LONGEST_KEPT, LONGEST_QUERY))
    found = [asked("mutation { one }"), asked(long)]
    refused = asked(too_long)

    assert found == [Operation(changes=("one",))] * 2
    assert kept_mutations.cache_info().currsize == 1
    assert isinstance(refused, Refusal)
    assert refused.status == 413


@pytest.mark.parametrize(
    ("path", "change"), [("*", "*"), ("/", ""), ("/report_asset_check/a/b", "report_asset_check"), ("/" + "x" * 99, "x" * 64)]
)
def test_a_change_by_another_path_is_named_by_its_first_part(path: str, change: str) -> None:
    """Regression: `POST *` ended in an error, without a line in the audit log."""
    assert change_of({"method": "POST", "path": path}) == Operation(changes=(change,))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "pages.example", ""])  # noqa: S104 - refused
def test_without_a_login_no_other_machine_is_served(host: str, tmp_path: Path) -> None:
    """Regression: hosts by list were no protection, as any program can name one of them; the error says what to set."""
    with pytest.raises(UserInputError, match="PIPELINE_WEB_LOGIN=true"):
        serve(tmp_path / "workspace.yaml", host, 3000, WebSettings(home=tmp_path), AccessSettings(home=tmp_path))

    assert [own for own in ("localhost", "127.0.0.1", "127.0.0.2", "::1") if not is_of_this_machine(own)] == []


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:3000", "[::1]:3000", "LOCALHOST", "pages.example:443", "Pages.Example"])
def test_hosts_that_are_known_are_answered(host: str) -> None:
    """With any port and in any case: this machine's and those of the setting."""
    assert unknown_host({"headers": [(b"host", host.encode())]}, host_names(["pages.example"])) is None


@pytest.mark.parametrize(
    "hosts", [[], ["localhost", "localhost"], [""], ["localhost.example"], ["user@localhost@other.example"], ["[::1"], ["192.168.0.1"]]
)
def test_other_hosts_are_not(hosts: list[str]) -> None:
    """None, several, and names that only look like a known one."""
    refusal = unknown_host({"headers": [(b"host", host.encode()) for host in hosts]}, host_names(["pages.example"]))

    assert refusal is not None
    assert refusal.status == 421
