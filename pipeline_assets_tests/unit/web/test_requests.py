"""What the guard of the web pages reads of a request, without a server."""

import pytest
from graphql import GraphQLError

from pipeline_assets.web.operations import mutations
from pipeline_assets.web.origins import host_names, unknown_host


@pytest.mark.parametrize(
    ("query", "changes"),
    [
        ("{ version }", ()),
        ("subscription { a }", ()),
        ("query mutation { mutation: version }", ()),
        ("mutation { b: launchRun }", ("launchRun",)),
        ("query A { a } mutation B { one two }", ("one", "two")),
        ("mutation { ...F } fragment F on Mutation { launchRun }", ("mutation",)),
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
