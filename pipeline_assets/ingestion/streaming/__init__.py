"""Room 3, streaming ingestion: events as they happen, typed and staged beside the batches.

Responsibility: turn records of topics into rows that kept their contract, each exactly once; lay them by day beside the history from before
the stream began.
Input: topics landed as bytes by Kafka Connect, and the staged history. Output: typed lake tables with the place of each event in its
topic, and per stream and day Parquet files on the object store with a manifest.
"""
