"""Room 3, streaming ingestion: events as they happen and tables as they change, typed and staged beside the batches.

Responsibility: turn records of topics into rows that kept their contract, each exactly once; lay events by day beside the history from
before the stream began, and turn the changes of a table into the rows that stand in it. Audit whether anything was lost or duplicated.
Input: topics landed as bytes by Kafka Connect, and the staged history. Output: typed lake tables with the place of each event in its
topic, and per stream and day, and per followed table, Parquet files on the object store with a manifest.
"""
