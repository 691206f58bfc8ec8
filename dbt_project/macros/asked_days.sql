{#-
    The days that a run is asked for, and the rows that belong to them.

    They are dbt's own flags `--event-time-start` and `--event-time-end`: UTC, the start inclusive, the end exclusive. Without them, and
    in a full refresh, a model takes all rows. They are no vars, because dbt parses the whole project anew whenever a var changes.
-#}

{#- Whether the days of this run are bounded. -#}
{% macro has_asked_days() -%}
    {{ return(invocation_args_dict.get('event_time_start') is not none and not flags.FULL_REFRESH) }}
{%- endmacro %}

{#- Whether `column`, a point in time, lies in the asked days. -#}
{% macro is_in_asked_days(column) -%}
    {{ column }} >= '{{ invocation_args_dict.event_time_start }}+00'::timestamptz
    and {{ column }} < '{{ invocation_args_dict.event_time_end }}+00'::timestamptz
{%- endmacro %}

{#-
    The rows of `staging`, a staging model, that are to be built: all rows of a key are, if the key has a raw row in the asked days, or a
    row in this table.

    So a key whose row moved to another day, or came back after its newer version was withdrawn, is built anew too, and a table built
    by ranges in any order equals the table built at once. Key and event time have the same names in the raw table. `any(array(…))`
    lets Postgres push the condition below the `distinct on` of the view, down to the index of the raw table. Its columns are named with
    their table, as dagster-dbt reads lineage from this SQL and does not know what columns a raw table has.
-#}
{% macro rows_of_asked_days(staging) -%}
    {%- set key, at = config.get('unique_key'), config.get('event_time') -%}
    select * from {{ staging }}
    {%- if execute and model.resource_type != 'unit_test' and has_asked_days() %}
    where
        {%- if key is not string and at in key %}
        {{ is_in_asked_days(at) }}
        {%- else %}
        {{ key }} = any(array(
            select raw.{{ key }} from {{ raw_table_below(staging) }} as raw
            where {{ is_in_asked_days('raw.' ~ at) }}
            {%- if is_incremental() %}
            union
            select {{ key }} from {{ this }}
            where {{ is_in_asked_days(at) }}
            {%- endif %}
        ))
        {%- endif %}
    {%- endif -%}
{%- endmacro %}

{#- The raw table that a staging model reads. -#}
{% macro raw_table_below(staging) -%}
    {%- set nodes = graph.nodes.values() | selectattr('relation_name', 'equalto', staging | string) -%}
    {{ return(graph.sources[(nodes | first).depends_on.nodes[0]].relation_name) }}
{%- endmacro %}
