{#-
    The days that a run is asked for, and the rows that belong to them.

    They come as the variables PIPELINE_DBT_FIRST_DAY and PIPELINE_DBT_LAST_DAY of the environment, UTC days, both inclusive; without
    them, and in a full refresh, a model takes all rows. They are no vars of dbt, because dbt parses the whole project anew whenever
    a var changes.
-#}

{#- Whether the days of this run are bounded. -#}
{% macro has_asked_days() -%}
    {{ return(env_var('PIPELINE_DBT_FIRST_DAY', '') != '' and not flags.FULL_REFRESH) }}
{%- endmacro %}

{#- Whether `column`, a point in time, lies in the asked days. -#}
{% macro is_in_asked_days(column) -%}
    {%- set first = modules.datetime.date.fromisoformat(env_var('PIPELINE_DBT_FIRST_DAY')) -%}
    {%- set last = modules.datetime.date.fromisoformat(env_var('PIPELINE_DBT_LAST_DAY')) -%}
    {{ column }} >= '{{ first }} 00:00:00+00'::timestamptz
    and {{ column }} < '{{ last + modules.datetime.timedelta(days=1) }} 00:00:00+00'::timestamptz
{%- endmacro %}

{#-
    Whether a row of `staging`, a staging model, is to be built: all rows of a key are, if the key has a raw row in the asked days, or a
    row in this table.

    So a key whose row moved to another day, or came back after its newer version was withdrawn, is built anew too, and a table built
    by ranges in any order equals the table built at once. Key and event time have the same names in the raw table. `any(array(…))`
    lets Postgres push the condition below the `distinct on` of the view, down to the index of the raw table.
-#}
{% macro belongs_to_asked_days(staging) -%}
    {%- set key, at = config.get('unique_key'), config.get('event_time') -%}
    {%- if not execute or model.resource_type == 'unit_test' or not has_asked_days() -%}
    true
    {%- elif key is not string and at in key -%}
    {{ is_in_asked_days(at) }}
    {%- else -%}
    {{ key }} = any(array(
        select {{ key }} from {{ raw_table_below(staging) }}
        where {{ is_in_asked_days(at) }}
        {%- if is_incremental() %}
        union
        select {{ key }} from {{ this }}
        where {{ is_in_asked_days(at) }}
        {%- endif %}
    ))
    {%- endif -%}
{%- endmacro %}

{#- The raw table that a staging model reads. -#}
{% macro raw_table_below(staging) -%}
    {%- set nodes = graph.nodes.values() | selectattr('relation_name', 'equalto', staging | string) -%}
    {{ return(graph.sources[(nodes | first).depends_on.nodes[0]].relation_name) }}
{%- endmacro %}
