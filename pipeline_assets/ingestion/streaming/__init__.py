"""Room 3, streaming ingestion: events as they happen, typed and staged beside the batches.

Responsibility: turn events into rows that kept their contract; the history from before a stream began takes the same way.
Input: topics of events, and the staged history. Output: per stream and day Parquet files on the object store with a manifest.
"""
