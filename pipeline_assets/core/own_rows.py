"""Rows of tables that the platform alone writes to, read back: of those that somebody changed by hand, nothing may be to make."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from pipeline_assets.core.errors import PipelineError
from pipeline_assets.core.foreign import shown
from pipeline_assets.core.sealed_json import UNFIT

Fit = TypeVar("Fit")


class RowsDamaged(PipelineError):
    """A table of the platform's own has a row of which nothing can be made; nothing of what was asked for is used."""

    def __init__(self, table: str, problem: str) -> None:
        self.table, self.problem = table, problem
        super().__init__(
            f"A row of {table} cannot be read ({problem}), as it is not what the platform wrote. Nothing of it is used. "
            "Set the row right, or restore the database from a backup."
        )


@contextmanager
def reading(table: str) -> Iterator[None]:
    """Raises RowsDamaged where the block can make nothing of the rows of a table, such as of a time that is `infinity`.

    What else a database says is raised as it is.
    """
    try:
        yield
    except Exception as error:
        if not _is_of_a_row(error):
            raise
        raise RowsDamaged(table, f"{type(error).__name__}: {shown(error)}") from error


def fit(kind: type[Fit], document: object) -> Fit:
    """A JSON document as the kind that it is read as; raises ValueError where it is something else."""
    from msgspec import ValidationError, convert

    try:
        return convert(document, kind)
    except ValidationError as error:
        raise ValueError(str(error)) from error


def _is_of_a_row(error: Exception) -> bool:
    from psycopg import DataError

    # One that the server raised has a code: it is of the question and no row.
    return isinstance(error, UNFIT) or (isinstance(error, DataError) and error.sqlstate is None)
