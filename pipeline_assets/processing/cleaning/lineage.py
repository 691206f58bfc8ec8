"""Which columns a column is made from, read from the SQL of a dbt model as it ran."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline_assets.core.names import AssetName

if TYPE_CHECKING:
    from sqlglot.lineage import Node

DIALECT = "postgres"

ColumnOf = tuple[AssetName, str]


def column_lineage(sql: str, below: Mapping[AssetName, Mapping[str, str]]) -> dict[str, tuple[ColumnOf, ...]]:
    """For each column of a select statement the columns that its values come from, each with its table, sorted.

    `below` gives name and type of the columns of every table that the statement may read, by schema and table. A column that only decides
    which rows there are (a filter, a join, an order) is not told; one made of constants comes from none. A statement that cannot be
    understood has no lineage, as that must not keep its table from being built.
    """
    from sqlglot import MappingSchema, exp, parse_one
    from sqlglot.errors import SqlglotError
    from sqlglot.lineage import lineage
    from sqlglot.optimizer.qualify import qualify

    types = MappingSchema(dialect=DIALECT)
    for name, columns in below.items():
        types.add_table(".".join(name), dict(columns))
    try:
        statement = parse_one(sql, dialect=DIALECT)
        for table in statement.find_all(exp.Table):
            table.set("catalog", None)  # the database, which is the same for all
        # A whole row, as in `order by renamed`, is no column and would not pass as one.
        whole = qualify(statement, schema=types, dialect=DIALECT, validate_qualify_columns=False)
        text = whole.sql(dialect=DIALECT)
        made = whole.named_selects if isinstance(whole, exp.Query) else []
        return {column: _leaves(lineage(column, text, schema=types, dialect=DIALECT)) for column in made}
    except SqlglotError:
        return {}


def _leaves(node: "Node") -> tuple[ColumnOf, ...]:
    from sqlglot import exp

    found = set()
    for each in node.walk():
        table = each.expression
        if not each.downstream and isinstance(table, exp.Table):
            found.add(((table.db, table.name), exp.to_column(each.name).name))
    return tuple(sorted(found))
