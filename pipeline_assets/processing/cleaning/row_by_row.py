"""Which SQL of dbt models may run on a stream: a row of the result comes of one row and of nothing else, whenever it is asked for.

What the macro `versions_of` renders is excepted, to the letter: over all versions of a key it gives the same as over all rows. The text is
read twice by sqlglot: as tokens, which know their lines and the names of functions as they were written, and as a tree, which knows what
is read from where.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

from pipeline_assets.processing.cleaning.derivations import chain_of, versions_block
from pipeline_assets.processing.cleaning.functions import CLOCK_WORDS, OF_VERSIONS, ROW_FUNCTIONS, kind_of, words

if TYPE_CHECKING:
    from sqlglot.expressions import Expr
    from sqlglot.tokenizer_core import Token

LOADED_AT = "_loaded_at"
# Clauses by the word that they begin with; none of them is another thing in Postgres unless it is quoted, or follows a dot or `as`.
CLAUSES = {
    "union": "the set operation union",
    "intersect": "the set operation intersect",
    "except": "the set operation except",
    "group": "group by",
    "order": "order by",
    "having": "having",
    "limit": "limit",
    "offset": "offset",
    "fetch": "fetch",
    "distinct": "distinct",
    "window": "a window function (window)",
    "lateral": "a lateral join",
    "tablesample": "a sample of rows",
    "into": "into",
}
# Those that are words of their own elsewhere: clauses where they follow a closing parenthesis.
AFTER_CALL = {"over": "a window function (over)", "filter": "an aggregate (filter)", "within": "an aggregate (within group)"}
# What Postgres calls without parentheses.
WITHOUT_PARENTHESES = words(
    "current_date current_time current_timestamp localtime localtimestamp current_user current_role current_catalog current_schema "
    "session_user system_user user"
)
# What a parenthesis may follow that is no call.
SYNTAX = words(
    "select from where and or not in on as case when then else between any some all is like ilike to escape using array row zone by over "
    "filter within group materialized with for precision varying interval end exists lateral values"
)
TYPES = words("numeric decimal dec float varchar char character bpchar bit varbit timestamp timestamptz time timetz")
CATALOG_TYPES = words("regclass regproc regprocedure regtype regrole regnamespace regconfig regdictionary regoper regoperator")
# What a select may have; the clauses above are found by their words.
PARTS_OF_SELECT = frozenset(("expressions", "from_", "where", "with_", "joins", "group", "order", "having", "limit", "offset", "distinct"))
PARTS_OF_TABLE = frozenset(("this", "db", "catalog", "alias", "joins", "laterals", "sample"))
Found = tuple[int, str]


@dataclass(frozen=True, kw_only=True)
class StreamProblem:
    """What of a model may not run on a stream: the model, its file below the dbt project, the line there, and the construct.

    The line is None where it is not one line of the SQL, as where a model reads two relations.
    """

    model: str
    file: str
    line: int | None
    construct: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"model '{self.model}' ({place}) {self.construct}"


def problems(manifest: Mapping[str, Any], table: str) -> tuple[StreamProblem, ...]:
    """What keeps the rows of a cleaned table from being derived on a stream, model by model from the raw table on; nothing if it can."""
    chain = chain_of(manifest, table)
    files = {model["name"]: model["original_file_path"] for model in chain.models}
    found = [
        StreamProblem(model=model["name"], file=files[model["name"]], line=line, construct=construct)
        for model in chain.models
        if model.get("compiled_code") is not None
        for line, construct in _in_model(manifest, model)
    ]
    # A join says more, and where, than the number of relations that its model reads.
    named = {one.model for one in found}
    found += [
        StreamProblem(model=model, file=files.get(model, "models"), line=None, construct=problem)
        for model, problem in chain.problems
        if not (problem.startswith("reads") and model in named)
    ]
    cleaned = chain.models[-1] if chain.models else None
    if cleaned is not None and LOADED_AT in cleaned["columns"]:
        found.append(StreamProblem(model=table, file=files[table], line=None, construct=f"has the column {LOADED_AT}, a wall-clock time"))
    return tuple(found)


def of_other_source(manifest: Mapping[str, Any], table: str, streams: Collection[str]) -> tuple[StreamProblem, ...]:
    """The problem that the raw table below a cleaned one is of no stream; nothing if it is, or if there is not one raw table."""
    chain = chain_of(manifest, table)
    if chain.raw is None or chain.raw["name"] in streams:
        return ()
    first = chain.models[0]
    line = next((number for number, text in enumerate(first["raw_code"].splitlines(), 1) if "source(" in text), None)
    construct = f"reads raw table '{chain.raw['name']}', which no stream fills"
    return (StreamProblem(model=first["name"], file=first["original_file_path"], line=line, construct=construct),)


def _in_model(manifest: Mapping[str, Any], model: Mapping[str, Any]) -> list[Found]:
    """The constructs of a model that may not run on a stream, with their lines in its file."""
    parents = [manifest["sources"].get(one) or manifest["nodes"][one] for one in model["depends_on"]["nodes"]]
    relations = frozenset(str(parent["relation_name"]) for parent in parents)
    sql: str = model["compiled_code"]
    raw = parents[0]["relation_name"] if len(parents) == 1 and parents[0]["resource_type"] == "source" else None
    block = versions_block(manifest, sql, raw) if raw is not None else None
    found = set(constructs(sql if block is None else _without(sql, block, str(raw)), relations))
    if block is not None:
        first = sql.count("\n", 0, block.start())
        found |= {(first + line, construct) for line, construct in odd_calls(tokens_of(block[0]), ROW_FUNCTIONS | OF_VERSIONS)}
    lines = _lines(sql, model["raw_code"])
    return sorted((lines[min(line, len(lines)) - 1], construct) for line, construct in found)


def constructs(sql: str, relations: frozenset[str]) -> Iterator[Found]:
    """What of a query may not run on a stream, each with its line; relations: what it may read, as dbt writes them."""
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    try:
        tokens = tokens_of(sql)
        tree = sqlglot.parse_one(sql, dialect="postgres")
    except SqlglotError as error:
        place = error.errors[0].get("line") if isinstance(error, sqlglot.ParseError) and error.errors else None
        yield place or 1, f"has SQL that sqlglot cannot read: {str(error).splitlines()[0]}"
        return
    with_columns = {cte.alias.lower() for cte in tree.find_all(exp.CTE) if cte.args["alias"].columns}
    yield from odd_calls(tokens, ROW_FUNCTIONS | with_columns)
    yield from _clauses(tokens)
    yield from odd_values(tokens)
    yield from _Reading(relations, {cte.alias for cte in tree.find_all(exp.CTE)}).problems(tree)


def _without(sql: str, block: "re.Match[str]", relation: str) -> str:
    """The SQL with a plain select in the place of a block, and the same lines."""
    blank = "\n" * block[0].count("\n")
    return sql[: block.start()] + "select * from " + relation + blank + sql[block.end() :]  # noqa: S608 - SQL of the project's own models


def tokens_of(sql: str) -> "list[Token]":
    """The words of a query, each with its line; raises SqlglotError."""
    import sqlglot

    return sqlglot.tokenize(sql, dialect="postgres")


def odd_calls(tokens: "list[Token]", allowed: frozenset[str]) -> Iterator[Found]:
    """The functions that are called and not allowed; what is not known may be anything."""
    for place, token in enumerate(tokens):
        before = tokens[place - 1].text.lower() if place else ""
        name = token.text.lower()
        is_called = place + 1 < len(tokens) and tokens[place + 1].text == "(" and _is_name(token)
        if is_called and before == "." and tokens[place - 2].text.lower() != "pg_catalog":
            yield token.line, f"calls {tokens[place - 2].text}.{token.text}(), a function that is not built in"
        elif is_called and before != "as" and name not in allowed | SYNTAX | TYPES:
            yield token.line, f"calls {name}(), {kind_of(name)}"
        elif name in WITHOUT_PARENTHESES and _is_word(token) and before not in (".", "as"):
            yield token.line, f"asks for {name}, {kind_of(name)}"


def _clauses(tokens: "list[Token]") -> Iterator[Found]:
    for place, token in enumerate(tokens):
        before = tokens[place - 1].text.lower() if place else ""
        after = tokens[place + 1].text.lower() if place + 1 < len(tokens) else ""
        # sqlglot takes two words that belong together for one token.
        word = token.text.lower().split(" ")[0]
        if not _is_word(token) or before in (".", "as") or (word == "distinct" and after == "from"):
            continue
        if word in CLAUSES:
            yield token.line, f"has {CLAUSES[word]}"
        elif word in AFTER_CALL and before == ")":
            yield token.line, f"has {AFTER_CALL[word]}"
        elif word == "recursive" and before == "with":
            yield token.line, "has a recursive query"


def odd_values(tokens: "list[Token]") -> Iterator[Found]:
    """Texts, columns and types by which a row would depend on the clock, or on the catalog of its database."""
    for token in tokens:
        if token.token_type.name.endswith("STRING"):
            words = CLOCK_WORDS & set(re.findall(r"[a-z]+", token.text.lower()))
            if words:
                yield token.line, f"has the text '{token.text}', which is the clock where Postgres takes it for a time"
        elif token.text.lower() == LOADED_AT:
            yield token.line, f"reads {LOADED_AT}, the wall-clock time of the copy"
        elif token.text.lower() in CATALOG_TYPES:
            yield token.line, f"has the type {token.text.lower()}, which reads the catalog of its database"


def _is_word(token: "Token") -> bool:
    """Whether a token is a word that is not quoted."""
    kind = token.token_type.name
    return kind != "IDENTIFIER" and not kind.endswith("STRING") and token.text[:1].isalpha()


def _is_name(token: "Token") -> bool:
    return token.token_type.name == "IDENTIFIER" or _is_word(token) or token.text.startswith("_")


@dataclass(frozen=True)
class _Reading:
    """What the queries of a tree read: each of one relation, or of one query of its own."""

    relations: frozenset[str]
    queries: set[str]

    def problems(self, query: "Expr") -> Iterator[Found]:
        """The problems of a query and of those that it is made of."""
        from sqlglot import exp

        if isinstance(query, exp.SetOperation):
            return  # found by its word
        if not isinstance(query, exp.Select):
            yield _line(query), f"has {query.key}, expected a select"
            return
        for cte in query.ctes:
            yield from self.problems(cte.this)
        yield from self._of_from(query)
        yield from ((_line(join), "has a join") for join in query.args.get("joins") or ())
        others = [name for name, part in query.args.items() if part and name not in PARTS_OF_SELECT]
        yield from ((_line(query), f"has the clause {name.strip('_')}") for name in others)
        for part in (*query.expressions, query.args.get("where")):
            inner = part.find(exp.Query) if part is not None else None
            if inner is not None:
                yield _line(inner), "has a subquery beside its rows"

    def _of_from(self, query: "Expr") -> Iterator[Found]:
        from sqlglot import exp

        source = query.args.get("from_")
        table = source.this if source is not None else None
        if isinstance(table, exp.Subquery):
            yield from self.problems(table.this)
        elif not isinstance(table, exp.Table) or not isinstance(table.this, exp.Identifier):
            yield _line(table or query), "reads no relation of dbt" if table is None else "reads the rows of a function"
        elif not self._is_known(table):
            yield _line(table), f"reads {table.sql(dialect='postgres')}, which is not the relation that it refers to"
        if table is not None and (joins := table.args.get("joins")):
            yield from ((_line(join), "has a join") for join in joins)
        others = [
            name for name, part in (table.args.items() if isinstance(table, exp.Table) else ()) if part and name not in PARTS_OF_TABLE
        ]
        yield from ((_line(query), f"has {name.strip('_')} of a table") for name in others)

    def _is_known(self, table: "Expr") -> bool:
        parts = [table.args[name].name for name in ("catalog", "db", "this") if table.args.get(name)]
        return ".".join(f'"{part}"' for part in parts) in self.relations or (len(parts) == 1 and parts[0] in self.queries)


def _line(part: "Expr") -> int:
    """The line of a part of a tree: of its first word that has one."""
    found = [node.meta["line"] for node in part.walk() if "line" in node.meta]
    return min(found, default=1)


def _lines(compiled: str, raw: str) -> list[int]:
    """For each line of compiled SQL its line in the file: its own, or that of the macro which it comes from."""
    here, there = ([line.strip() for line in text.splitlines()] for text in (compiled, raw))
    found = [1] * len(here)
    for _, first, last, start, end in SequenceMatcher(None, here, there, autojunk=False).get_opcodes():
        for place in range(first, last):
            found[place] = max(1, min(start + place - first, max(end - 1, start)) + 1)
    return found
