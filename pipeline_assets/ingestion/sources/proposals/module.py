"""A proposal as the text of a Python module: imports, what was looked at, and the declaration."""

import builtins
import keyword
from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import Any

from pipeline_assets.ingestion.sources.proposals.code import LINE, Call, Noted, assignment, call_of, comment, names_in, text
from pipeline_assets.ingestion.sources.proposals.proposal import Proposal
from pipeline_assets.spec import contracts, rest, sources

DOC = '"""A proposal to be edited: what is marked as a guess was not said by the source, what was seen stands in comments."""'
SHOWN_LEFT_OUT = 100


def module_text(proposal: Proposal, kind: str, others: Sequence[tuple[str, Any]]) -> str:
    """The module that declares a `Source` or an `EventStream` (`kind`) with the proposed contract and other arguments."""
    declared = Call(name=kind, arguments=[("contract", _contract(proposal)), *others])
    name = proposal.contract.name
    taken = keyword.iskeyword(name) or keyword.issoftkeyword(name) or hasattr(builtins, name) or name == "timedelta"
    about = [comment(line) for line in _about(proposal)]
    parts = [DOC, "", *_imports(declared), "", *about, assignment(f"{name}_" if taken else name, declared), ""]
    return "\n".join(parts)


def _contract(proposal: Proposal) -> Call:
    comments = proposal.comments
    made = call_of(proposal.contract, comments)
    fields = tuple(_field(field, comments.get(f".{field.name}", ())) for field in proposal.contract.fields)
    return Call(name=made.name, arguments=[(name, fields if name == "fields" else value) for name, value in made.arguments])


def _field(field: contracts.Field, comments: Sequence[str]) -> Call | Noted:
    """A field with its description last, as it is the longest."""
    made = call_of(field)
    call = Call(name=made.name, arguments=sorted(made.arguments, key=lambda argument: argument[0] == "description"))
    return Noted(value=call, comments=comments) if comments else call


def _about(proposal: Proposal) -> Iterator[str]:
    sample = proposal.sample
    yield f"Looked at: {sample.looked_at}."
    if sample.unreadable:
        yield f"Rows among them that cannot be read: {sample.unreadable:,}."
    yield from (f"{remark[:1].upper()}{remark[1:]}." for remark in proposal.remarks)
    if proposal.problem:
        yield f"This does not load yet: {proposal.problem}."
    if proposal.left_out:
        yield "Left out:"
        for name, reason in proposal.left_out[:SHOWN_LEFT_OUT]:
            first, *rest = wrap(f"- {text(name[:SHOWN_LEFT_OUT])}: {reason}", LINE - len("#   "), break_on_hyphens=False)
            yield from (first, *(f"  {line}" for line in rest))
    if len(proposal.left_out) > SHOWN_LEFT_OUT:
        yield f"- and {len(proposal.left_out) - SHOWN_LEFT_OUT:,} more"


def _imports(declared: Call) -> Iterator[str]:
    used = sorted(set(names_in(declared)))
    if "timedelta" in used:
        yield "from datetime import timedelta"
        yield ""
    for module in (contracts, rest, sources):
        own = [name for name in used if getattr(getattr(module, name, None), "__module__", "") == module.__name__]
        if own:
            yield f"from {module.__name__} import {', '.join(own)}"
