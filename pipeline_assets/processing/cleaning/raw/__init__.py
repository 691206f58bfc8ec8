"""Copies of the lake's tables in the warehouse, for dbt to read."""
