"""Room 1, sources: the systems outside, and what they promise.

Responsibility: declare each outside table, endpoint and topic as an asset with its contract; check rows against it; keep the rows that
broke it in quarantine, with reason, position and original bytes, until they are replayed.
Input: the declarations of a use case. Output: checked rows as Arrow batches, quarantined rows in the warehouse.
"""
