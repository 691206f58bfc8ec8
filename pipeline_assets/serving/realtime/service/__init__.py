"""The prediction service: answers requests with the live version of each model, and needs no Dagster, MLflow, pandas or dbt."""
