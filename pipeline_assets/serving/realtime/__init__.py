"""Room 11, real-time inference: what the prediction service loads.

Responsibility: put a version that goes live into a package that never changes (the model in XGBoost's own format, its contract, rows with
known scores, and a manifest written last), and prove it by loading it back: hashes, scores to the last bit, latency of one row.
Input: versions of the registry and the training sets that they were judged on. Output: `packages/<model>/<version>/` on the object store.
"""
