"""Room 2, batch ingestion: days of outside tables and APIs, read and staged as files.

Responsibility: read a source consistently and within bounded memory, hold every row against the contract, and stage what kept it.
Input: Postgres tables, REST endpoints and files. Output: per contract and day Parquet files on the object store with a manifest.
"""
