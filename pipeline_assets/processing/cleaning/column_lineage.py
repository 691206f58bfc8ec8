"""What each column of a dbt model is computed from, and which columns decide its rows: read off the compiled SQL by sqlglot.

`lineage.py` keeps what is found here beside the manifest, so that processes which only ask do not parse SQL.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sqlglot import MappingSchema, exp, lineage, parse_one
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import Scope, ScopeType, build_scope, find_all_in_scope

from pipeline_assets.core.names import AssetName
from pipeline_assets.processing.cleaning.clocks import clocks_in_jinja, clocks_in_sql
from pipeline_assets.processing.cleaning.lineage import ColumnOrigin, ModelColumns, SourceColumn
from pipeline_assets.processing.cleaning.manifest import ALL, NOT_COMPILED
from pipeline_assets.processing.cleaning.raw_schema import LOADED_AT

DIALECT = "postgres"
LONGEST_EXPRESSION = 200
# What takes values of several rows.
ACROSS_ROWS = (exp.Window, exp.AggFunc, exp.Filter, exp.WithinGroup)

# Columns of tables, each with whether it reaches the value within a row; else through a window, an aggregate or a query of its own.
Found = dict[SourceColumn, bool]


def model_columns(manifest: Mapping[str, Any]) -> dict[AssetName, ModelColumns]:
    """The columns of each model of a compiled manifest, by its table, with the columns of the tables that its SQL names.

    A model whose SQL sqlglot cannot read has the columns of its YAML file without origins, and says why in `unread`.
    """
    schema = MappingSchema(dialect=DIALECT)
    for source in manifest["sources"].values():
        _add_table(schema, (source["schema"], source["identifier"]), source["columns"])
    found: dict[AssetName, ModelColumns] = {}
    for node in _parents_first(manifest):
        table = (str(node["schema"]), str(node["alias"]))
        found[table] = _read(manifest, node, schema)
        _add_table(schema, table, found[table].columns)
    return found


def _parents_first(manifest: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The models in an order in which each comes after all that it reads."""
    nodes = {name: node for name, node in manifest["nodes"].items() if node["resource_type"] in {"model", "seed", "snapshot"}}
    done: set[str] = set()

    def with_parents(name: str) -> Iterator[Mapping[str, Any]]:
        if name in nodes and name not in done:
            done.add(name)
            for parent in manifest["parent_map"].get(name, ()):
                yield from with_parents(parent)
            yield nodes[name]

    for name in sorted(nodes):
        yield from with_parents(name)


def _add_table(schema: MappingSchema, table: AssetName, columns: Iterable[str]) -> None:
    named = exp.table_(exp.to_identifier(table[1], quoted=True), db=exp.to_identifier(table[0], quoted=True))
    # Lineage asks for names; the types do not matter to it.
    schema.add_table(named, {f'"{column}"': "text" for column in columns}, dialect=DIALECT)


def _read(manifest: Mapping[str, Any], node: Mapping[str, Any], schema: MappingSchema) -> ModelColumns:
    sql, clocks = node.get("compiled_code"), clocks_in_jinja(manifest, node)
    names = dict.fromkeys(node["columns"], ColumnOrigin())
    declared = ModelColumns(columns=names, file=node["original_file_path"], clocks=clocks, unread=_not_compiled(manifest, node))
    if not sql or node.get("language") == "python":
        return declared
    try:
        parsed = parse_one(sql, dialect=DIALECT)
        clocks = (*clocks_in_sql(parsed, DIALECT), *clocks)
        query = _Query(scope=_scope(parsed, schema), schema=schema)
        return replace(declared, columns=query.columns(), decided_by=query.decided_by(), joined=query.joined(), clocks=clocks, unread=None)
    except (SqlglotError, ValueError) as error:
        return replace(declared, clocks=clocks, unread=str(error).partition("\n")[0])


def _not_compiled(manifest: Mapping[str, Any], node: Mapping[str, Any]) -> str:
    """Why a model has no compiled SQL, in dbt's words where there are any."""
    said: Mapping[str, str] = manifest["metadata"].get(NOT_COMPILED, {})
    return said.get(node["name"]) or said.get(ALL) or "it has no compiled SQL"


def _scope(parsed: exp.Expr, schema: MappingSchema) -> Scope:
    """A query with every column named with its table, windows in place, and a row as such (`raw as whole`) as all of its columns."""
    for table in parsed.find_all(exp.Table):
        # dbt names the database in which it ran.
        table.set("catalog", None)
    for select in parsed.find_all(exp.Select):
        _put_windows_in_place(select)
    scope = build_scope(qualify(parsed, schema=schema, dialect=DIALECT, validate_qualify_columns=False, identify=False))
    if scope is None:
        raise SqlglotError("it is no query")
    for each in scope.traverse():
        _spell_rows_out(each, schema)
    return scope


def _put_windows_in_place(select: exp.Select) -> None:
    """`over w` as `over (…)`: lineage looks for columns where they are used."""
    named = {window.this.name: window for window in select.args.get("windows") or ()}
    for used in find_all_in_scope(select, exp.Window) if named else ():
        definition = named.get(used.alias)
        if definition is not None and used is not definition:
            used.set("alias", None)
            for part in ("partition_by", "order", "spec"):
                found = definition.args.get(part)
                used.set(part, [one.copy() for one in found] if isinstance(found, list) else found and found.copy())


def _spell_rows_out(scope: Scope, schema: MappingSchema) -> None:
    for row in list(find_all_in_scope(scope.expression, exp.TableColumn)):
        source, columns = scope.sources.get(row.name), list[str]()
        if isinstance(source, exp.Table):
            columns = list(schema.column_names(source))
        elif isinstance(source, Scope) and isinstance(source.expression, exp.Query):
            columns = source.expression.named_selects
        # When a row was copied is no part of what it says: `versions_of` leaves it out.
        named = [exp.column(exp.to_identifier(name), table=row.name) for name in columns if name != LOADED_AT]
        row.replace(exp.Anonymous(this="row", expressions=named))


@dataclass(frozen=True, kw_only=True)
class _Query:
    """A qualified query, and what is known already of the columns of its parts."""

    scope: Scope
    schema: MappingSchema
    known: dict[tuple[int, str], Found] = field(default_factory=dict)

    def columns(self) -> dict[str, ColumnOrigin]:
        """Each column of the result with the columns of tables that it is computed from."""
        nodes: dict[str, lineage.Node] = lineage.lineage(None, self.scope.expression, **self._as_it_is(self.scope))
        return {name: _origin(node) for name, node in nodes.items()}

    def decided_by(self) -> tuple[SourceColumn, ...]:
        """The columns of tables by which rows are joined, kept, grouped, or put in order before some of them are taken."""
        found = {behind: None for scope in self.scope.traverse() for column in _deciding(scope) for behind in self._behind(scope, column)}
        return tuple(sorted(found))

    def joined(self) -> tuple[tuple[SourceColumn, SourceColumn], ...]:
        """The columns of tables that joins want equal, where both are taken as they are."""
        found = dict[tuple[SourceColumn, SourceColumn], None]()
        for scope in self.scope.traverse():
            for one, other in _equal(scope):
                sides = [self._renamed(scope, one), self._renamed(scope, other)]
                if sides[0] is not None and sides[1] is not None:
                    found[sides[0], sides[1]] = None
        return tuple(sorted(found))

    def _renamed(self, scope: Scope, column: exp.Column) -> SourceColumn | None:
        """The column of a table that a column is by another name; None where it is computed, or comes of several tables."""
        source = _source(scope, column.table)
        if not isinstance(source, Scope):
            return None if source is None else _column(source, column.name)
        node = lineage.lineage(column.name, source.expression, **self._as_it_is(source))
        behind = list(_leaves(node))
        return behind[0] if not _expression(node) and len(behind) == 1 else None

    def _behind(self, scope: Scope, column: exp.Column) -> Iterable[SourceColumn]:
        source = _source(scope, column.table)
        if not isinstance(source, Scope):
            return [_column(source, column.name)] if source is not None else []
        asked = (id(source), column.name)
        if asked not in self.known:
            self.known[asked] = _leaves(lineage.lineage(column.name, source.expression, **self._as_it_is(source)))
        return self.known[asked]

    def _as_it_is(self, scope: Scope) -> dict[str, Any]:
        return {"schema": self.schema, "scope": scope, "dialect": DIALECT, "trim_selects": False, "copy": False}


def _source(scope: Scope, table: str) -> exp.Table | Scope | None:
    """What a name stands for in a part of a query; a condition may name what is outside of it."""
    source = scope.sources.get(table)
    if source is None and scope.parent is not None:
        return _source(scope.parent, table)
    return source if isinstance(source, exp.Table | Scope) else None


def _deciding(scope: Scope) -> Iterator[exp.Column]:
    """The columns that a part of a query names where it joins, filters, groups and takes some rows; all of a query within a condition."""
    query = scope.expression
    if scope.scope_type == ScopeType.SUBQUERY:
        yield from find_all_in_scope(query, exp.Column)
        return
    clauses = [query.args.get(clause) for clause in ("where", "group", "having", "qualify", "distinct")]
    clauses += [join.args.get("on") for join in query.args.get("joins") or ()]
    if query.args.get("limit") is not None:
        clauses.append(query.args.get("order"))
    if query.args.get("distinct") is not None and isinstance(query, exp.Select):
        clauses += query.selects
    for clause in clauses:
        if isinstance(clause, exp.Expr):
            yield from find_all_in_scope(clause, exp.Column)


def _equal(scope: Scope) -> Iterator[tuple[exp.Column, exp.Column]]:
    """The pairs of columns that the joins of a part of a query want equal, whatever else they want."""
    for join in scope.expression.args.get("joins") or ():
        condition = join.args.get("on")
        for one in () if condition is None else condition.flatten() if isinstance(condition, exp.And) else (condition,):
            if isinstance(one, exp.EQ) and isinstance(one.left, exp.Column) and isinstance(one.right, exp.Column):
                yield one.left, one.right


def _origin(node: lineage.Node) -> ColumnOrigin:
    found = _leaves(node)
    return ColumnOrigin(
        expression=_expression(node),
        same_row=tuple(sorted(column for column, is_same_row in found.items() if is_same_row)),
        other_rows=tuple(sorted(column for column, is_same_row in found.items() if not is_same_row)),
    )


def _leaves(root: lineage.Node) -> Found:
    """The columns of tables that a node leads to."""
    found: Found = {}
    seen: set[tuple[int, bool]] = set()
    left = [(root, True)]
    while left:
        node, is_same_row = left.pop()
        if (id(node), is_same_row) in seen:
            continue
        seen.add((id(node), is_same_row))
        if isinstance(node.expression, exp.Table):
            column = _column(node.expression, exp.to_column(node.name).name)
            found[column] = found.get(column, False) or is_same_row
        left += [(below, is_same_row and _is_of_same_row(node, below)) for below in node.downstream]
    return found


def _is_of_same_row(node: lineage.Node, below: lineage.Node) -> bool:
    """Whether an expression names the column below outside of windows, aggregates and queries of their own."""
    if isinstance(node.source, exp.SetOperation):
        return True
    named = [one for one in find_all_in_scope(node.expression, exp.Column) if _name(one) == below.name]
    return any(not isinstance(one.find_ancestor(*ACROSS_ROWS, exp.Select), ACROSS_ROWS) for one in named)


def _name(column: exp.Column) -> str:
    return f"{column.table}.{column.name}" if column.table else column.name


def _expression(node: lineage.Node) -> str:
    """The expression of a column where it is computed, without the names of tables; empty where it is only renamed."""
    while isinstance(node.expression.unalias(), exp.Column) and len(node.downstream) == 1:
        node = node.downstream[0]
    if isinstance(node.source, exp.SetOperation) and node.downstream and not any(map(_expression, node.downstream)):
        return ""
    if isinstance(node.expression, exp.Table | exp.Placeholder):
        return ""
    plain = node.expression.unalias().transform(lambda one: exp.column(one.this) if isinstance(one, exp.Column) else one)
    text = plain.sql(DIALECT, comments=False)
    return text if len(text) <= LONGEST_EXPRESSION else f"{text[:LONGEST_EXPRESSION]} …"


def _column(table: exp.Table, column: str) -> SourceColumn:
    return (table.db, table.name), column
