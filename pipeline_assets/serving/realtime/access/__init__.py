"""Who may ask the prediction service for what: keys, tokens of an identity provider, sessions of its page, and the guard before all routes.

`opened.py` puts the parts together for a service. Nothing here imports Dagster, MLflow, pandas or dbt, and nothing needs a database: who
may ask is known while all of them are down.
"""
