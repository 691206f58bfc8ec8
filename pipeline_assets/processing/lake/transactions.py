"""Transactions of pyiceberg that make the metadata of a table once per step, and not each time that somebody asks for a part of it."""

from pyiceberg.table import Transaction
from pyiceberg.table.metadata import TableMetadata


class OnceMade(Transaction):
    """A transaction whose metadata is made anew only where its table or its updates have changed.

    pyiceberg makes it some twenty times in a commit, by a deep copy: of a table with a property per day that takes longer than the commit.
    """

    _made: tuple[TableMetadata, object, TableMetadata] | None = None

    @property
    def table_metadata(self) -> TableMetadata:
        """The metadata as the updates leave it; nobody changes it."""
        of_table, updates = self._table.metadata, self._updates
        if self._made is None or self._made[0] is not of_table or self._made[1] is not updates:
            self._made = of_table, updates, super().table_metadata
        return self._made[2]
