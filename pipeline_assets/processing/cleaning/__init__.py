"""Cleaning: rows as the sources publish them become tables that people and features read.

Responsibility: copy the lake's rows into the warehouse; rename, cast and de-duplicate them (staging); derive what the business speaks of
(cleaned); hold both against tests. The SQL is the dbt project in `dbt_project/`, one asset per model.
Input: lake tables `lake.<contract>`. Output: tables `cleaned.<table>` in the warehouse, by way of `raw.<contract>` and the views
`staging.stg_<contract>`.
"""
