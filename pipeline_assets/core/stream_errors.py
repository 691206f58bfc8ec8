"""The errors of what is read from topics and change logs."""

from pipeline_assets.core.errors import PipelineError, SourceUnavailable, TransientError


class TransactionOpen(SourceUnavailable):
    """Offsets of a topic stand in a transaction that is neither committed nor aborted."""


class SnapshotIncomplete(TransientError):
    """A table's change log does not hold all of the table yet: its first snapshot is still being emitted."""

    def __init__(self, contract: str, changes: int) -> None:
        self.contract, self.changes = contract, changes
        super().__init__(
            f"The change log of '{contract}' has no complete snapshot yet ({changes} changes so far), so nothing was staged. "
            "It will be tried again. If it stays so, look at the connector of its database; an empty table has no snapshot."
        )


class OffsetsMissing(PipelineError):
    """Records of a topic that should have landed did not, and could not be fetched from Kafka either; nothing was written."""

    def __init__(self, topic: str, partition: int, first: int, last: int, problem: str) -> None:
        self.topic, self.partition, self.first, self.last = topic, partition, first, last
        super().__init__(
            f"Topic '{topic}', partition {partition}: offsets {first} to {last} have not landed, and {problem}. Nothing was written. "
            "Look at the connector that lands the topic, and at how long the topic keeps its records."
        )
