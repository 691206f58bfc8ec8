{#-
    The incremental strategy `replace_days`: the rows of the asked days, and older rows of the same keys, give way to the new ones.

    The days of both are noted for the lake (`changed_days`). All of it is one transaction of dbt's incremental materialization. Without
    asked days all rows are replaced.
-#}
{% macro get_incremental_replace_days_sql(arg_dict) %}
    {%- set target, new = arg_dict['target_relation'], arg_dict['temp_relation'] -%}
    {%- set keys = key_columns() | join(', ') -%}
    {%- set at = config.get('event_time') -%}
    {%- set columns = get_quoted_csv(arg_dict['dest_columns'] | map(attribute='name')) -%}

    with gone as (
        delete from {{ target }}
        where
            {% if has_asked_days() -%}
            ({{ is_in_asked_days(at) }})
            or ({{ keys }}) in (select {{ keys }} from {{ new }})
            {%- else -%}
            true
            {%- endif %}
        returning {{ changed_day(at) }} as day
    )

    insert into {{ changed_days() }} (table_name, day)
    select '{{ target.identifier }}', day from gone
    union
    select '{{ target.identifier }}', {{ changed_day(at) }} from {{ new }}
    on conflict do nothing;

    insert into {{ target }} ({{ columns }})
    select {{ columns }} from {{ new }}
{% endmacro %}
