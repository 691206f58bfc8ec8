"""Room 3, streaming ingestion: events as they happen, typed and staged beside the batches.

Responsibility: turn events into rows that kept their contract; the history from before a stream began takes the same way. Turn the
changes of a table into the rows that stand in it. Say whether anything was lost or doubled on the way.
Input: topics of events and of changes, and the staged history. Output: per stream and day, and per followed table, Parquet files on the
object store with a manifest.
"""
