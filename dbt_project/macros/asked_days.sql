{#-
    The days that a run is asked for, and the rows that belong to them.

    They are dbt's own flags `--event-time-start` and `--event-time-end`: UTC, the start inclusive, the end exclusive. Without them, and
    in a full refresh, a model takes all rows. They are no vars, because dbt parses the whole project anew whenever a var changes.

    A model of one daily table:

        {{ config(materialized='incremental', unique_key=['order_id', 'known_at'], event_time='ordered_at') }}
        with orders as ({{ rows_of_asked_days(ref('stg_orders')) }})

    A model of two, where a refund on a later day changes the row of an order of an earlier day:

        {{ config(materialized='incremental', unique_key=['order_id', 'known_at'], event_time='ordered_at') }}
        {%- set refunded = related_rows(ref('stg_refunds'), key='order_id', at='refunded_at') -%}
        with orders as ({{ rows_of_asked_days(ref('stg_orders'), changed_by=[refunded]) }}),
        refunds as ({{ rows_of_keys(refunded, of='orders') }})

    Such a model has a row for every key that it reads: a key that is built anew and has no row any more would keep its old one, if that is
    on another day. So no `where` after the import; whether a row counts is a column.

    Tables without days (registers) are joined by a plain `ref` to their history, as they were known at the time of the row (`was_known_at`
    in `versions.sql`). A register that changes later changes no row of before, so days built in any order are what a full refresh makes.
    One exception: a version that arrives after rows were built which come later than its `known_at`. Nothing is loaded by the day for it,
    so those rows keep what had arrived until their days are built again.
-#}

{#- Whether the days of this run are bounded. A unit test has only its given rows, whatever the days. -#}
{% macro has_asked_days() -%}
    {%- set is_bounded = invocation_args_dict.get('event_time_start') is not none -%}
    {{ return(is_bounded and not flags.FULL_REFRESH and model.resource_type != 'unit_test') }}
{%- endmacro %}

{#- Whether `column`, a point in time, lies in the asked days. -#}
{% macro is_in_asked_days(column) -%}
    {{ column }} >= '{{ invocation_args_dict.event_time_start }}+00'::timestamptz
    and {{ column }} < '{{ invocation_args_dict.event_time_end }}+00'::timestamptz
{%- endmacro %}

{#- The columns of the key of this model; all versions of a key are built together, so `known_at` is none of them. -#}
{% macro key_columns() -%}
    {%- set key = config.get('unique_key') -%}
    {%- if execute and (not key or not config.get('event_time')) -%}
        {{ exceptions.raise_compiler_error(
            "Model '" ~ model.name ~ "' is built by the day and lacks unique_key or event_time. Set both in its config."
        ) }}
    {%- endif -%}
    {{ return(([key] if key is string else key) | reject('equalto', 'known_at') | list) }}
{%- endmacro %}

{#-
    The rows of `parent` that are to be built: all rows of a key are, if the key has a raw row in the asked days, be it of `parent` or of
    one of `changed_by`, or a row of this table in the asked days.

    So a key whose row moved to another day, or came back after its newer version was withdrawn, is built anew too, and a table built by
    ranges of days in any order equals the table built at once. `parent` is a staging model or a cleaned table that is built by the day;
    its key has the same names in the raw tables below it. A key that contains the event time cannot move: then the days are enough.
-#}
{% macro rows_of_asked_days(parent, changed_by=[]) -%}
    select * from {{ parent }}
    {%- if execute and has_asked_days() %}
    {%- set key, at = key_columns(), config.get('event_time') %}
    where
        {% if at in key and not changed_by -%}
        {{ is_in_asked_days(at) }}
        {%- else -%}
        {{ is_key_of(key, keys_of_asked_days(parent, changed_by)) }}
        {%- endif %}
    {%- endif -%}
{%- endmacro %}

{#-
    Rows that change rows of this model, for `rows_of_asked_days` and `rows_of_keys`. `key`, one column or a list, has the values of this
    model's key, in its order. `at` is the column of this model that holds the time of its related row, if it has one: so a related row
    that was withdrawn is noticed, as nothing but this model knows of it any more.
-#}
{% macro related_rows(rows, key, at=none) -%}
    {{ return({'rows': rows, 'key': [key] if key is string else key, 'at': at}) }}
{%- endmacro %}

{#- The related rows of all keys in `of`, the name of the import of `rows_of_asked_days` above. -#}
{% macro rows_of_keys(related, of) -%}
    select * from {{ related.rows }}
    {%- if execute and has_asked_days() %}
    where
        {{ is_key_of(related.key, 'select ' ~ key_columns() | join(', ') ~ ' from ' ~ of) }}
    {%- endif -%}
{%- endmacro %}

{#-
    Whether the values of `columns` are a row of the query `keys`. `any(array(…))` lets Postgres push the condition below the windows
    of a staging view, down to the index of the raw table. Of several columns it takes one by one, and then the pairs that there are.
-#}
{% macro is_key_of(columns, keys) -%}
    {%- for column in columns %}
        {%- set one = 'select k.' ~ column ~ ' from (' ~ keys ~ ') as k (' ~ columns | join(', ') ~ ')' %}
        {{- 'and ' if not loop.first }}{{ column }} = any(array({{ one if columns | length > 1 else keys }}))
    {% endfor -%}
    {%- if columns | length > 1 -%}
        and ({{ columns | join(', ') }}) in ({{ keys }})
    {%- endif -%}
{%- endmacro %}

{#-
    The query for the keys that have a row in the asked days: a raw one below `parent` or below one of `changed_by`, or one of this table.
    Columns of raw tables are named with their table, as dagster-dbt reads lineage from this SQL and does not know what columns they have.
-#}
{% macro keys_of_asked_days(parent, changed_by) -%}
    {%- set key, queries = key_columns(), [] -%}
    {%- set own = [related_rows(parent, key, config.get('event_time'))] -%}
    {%- for each in own + changed_by -%}
        {%- for raw in daily_raw_tables_with(each.key, each.rows) -%}
            {%- do queries.append(
                'select raw.' ~ each.key | join(', raw.') ~ ' from ' ~ raw.relation_name ~ ' as raw where '
                ~ is_in_asked_days('raw.' ~ raw.config.event_time)
            ) -%}
        {%- endfor -%}
        {%- if is_incremental() and each.at is not none -%}
            {%- do queries.append('select ' ~ key | join(', ') ~ ' from ' ~ this ~ ' where ' ~ is_in_asked_days(each.at)) -%}
        {%- endif -%}
    {%- endfor -%}
    {{ return(queries | unique | join(' union ')) }}
{%- endmacro %}

{#- The raw tables below `rows` that are loaded by the day (those with an event_time in sources.yml) and have all of `columns`. -#}
{% macro daily_raw_tables_with(columns, rows) -%}
    {%- set node = graph.nodes.values() | selectattr('relation_name', 'equalto', rows | string) | first -%}
    {%- set found = [] -%}
    {%- for raw in raw_tables_below(node) | unique(attribute='unique_id') if raw.config.event_time -%}
        {%- do found.append(raw) if columns | reject('in', raw.columns) | list | length == 0 -%}
    {%- endfor -%}
    {%- if not found -%}
        {{ exceptions.raise_compiler_error(
            "Model '" ~ model.name ~ "' reads " ~ rows ~ " by the day, but no raw table below it is loaded by the day and has "
            ~ columns | join(', ') ~ ". Keep the names of key columns from the raw table on, or, if a contract changed, run "
            ~ "python -m pipeline_assets.processing.cleaning.sources_yml."
        ) }}
    {%- endif -%}
    {{ return(found) }}
{%- endmacro %}

{#- The raw tables that a model reads, directly or through other models. -#}
{% macro raw_tables_below(node) -%}
    {%- set found = [] -%}
    {%- for parent in node.depends_on.nodes -%}
        {%- if parent in graph.sources -%}
            {%- do found.append(graph.sources[parent]) -%}
        {%- elif parent in graph.nodes -%}
            {%- do found.extend(raw_tables_below(graph.nodes[parent])) -%}
        {%- endif -%}
    {%- endfor -%}
    {{ return(found) }}
{%- endmacro %}
