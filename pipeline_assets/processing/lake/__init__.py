"""The lake: what was ingested, and what is derived from it, as Iceberg tables on the object store.

Responsibility: tables typed by their contract, partitioned by UTC day, replaced by the day in one commit; snapshots to read as of then;
maintenance of their files.
Input: staged files with their manifests (`ingestion`), and Arrow tables of later rooms (features, vectors).
Output: tables `lake.<contract>`, `features.<view>`, `feature_store.<model>`, read as Arrow at a snapshot.
"""
