"""Room 11, real-time inference: what the prediction service loads.

Responsibility: put the live version into a package that never changes (the model in XGBoost's own format, its contract, rows with known
scores, and a manifest written last), and prove it by loading it back: hashes, scores to the last bit, latency of one row.
Input: the live version of the registry, vectors of the feature store. Output: `packages/<model>/<version>/` on the object store.
"""
