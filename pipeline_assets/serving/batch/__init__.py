"""Room 10, batch inference: a score for every decision of a day.

Responsibility: score the feature vectors of a range of days with the live version, or with the one that was live on each day; replace
the range in one transaction, leaving alone the rows that come out the same.
Input: the vectors of the feature store, the versions and the ledger of the registry. Output: the warehouse table `predictions.<model>`.
"""
