"""Room 9, registry: which version of a model is live, since when, and why.

Responsibility: judge a candidate against the rules of its gate, give it a version, and write the decision to an append-only ledger by
compare-and-swap; MLflow's aliases only mirror that ledger. Roll back is the same call backwards.
Input: candidates (MLflow runs) and the training sets they were learned from. Output: model versions, and the table `ledger.promotions`.
"""
