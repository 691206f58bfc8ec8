{#-
    The incremental strategy `replace_days`: the rows of the asked days, and older rows of the same keys, give way to the new ones.

    Delete and insert are one transaction of dbt's incremental materialization. Without asked days all rows are replaced.
-#}
{% macro get_incremental_replace_days_sql(arg_dict) %}
    {%- set target, new = arg_dict['target_relation'], arg_dict['temp_relation'] -%}
    {%- set key = arg_dict['unique_key'] -%}
    {%- set keys = (key if key is string else key | join(', ')) -%}
    {%- set columns = get_quoted_csv(arg_dict['dest_columns'] | map(attribute='name')) -%}

    delete from {{ target }}
    where
        {% if has_asked_days() -%}
        ({{ is_in_asked_days(config.get('event_time')) }})
        or ({{ keys }}) in (select {{ keys }} from {{ new }})
        {%- else -%}
        true
        {%- endif %};

    insert into {{ target }} ({{ columns }})
    select {{ columns }} from {{ new }}
{% endmacro %}

{#-
    Lets no second run write this table until the transaction ends; readers go on. A pre-hook, so that the lock is held before the
    new rows are read: of two runs at once, the later one sees what the earlier one saw, or newer.
-#}
{% macro lock_this() %}
    {%- if is_incremental() -%}
    lock table {{ this }} in share row exclusive mode
    {%- endif -%}
{% endmacro %}
