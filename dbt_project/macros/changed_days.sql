{#-
    Which days of which cleaned tables have changed since the platform last published them to the lake, where features read them.

    The table is an outbox: a day is noted in the transaction that changes it, and taken out once the lake has it, so that a build that is
    killed in between is made up for by the next one. The first day of the calendar stands for the table as a whole: it was made anew, or
    has a row without a time. dbt that is started by hand notes its days too.
-#}
{% macro changed_days() -%} publishing.changed_days {%- endmacro %}

{#- The outbox, before the first model; two runs at once make it one after the other. -#}
{% macro make_changed_days() -%}
    select pg_advisory_xact_lock(hashtext('{{ changed_days() }}'));
    create schema if not exists publishing;
    create table if not exists {{ changed_days() }} (table_name text, day date, primary key (table_name, day))
{%- endmacro %}

{#- The UTC day of a column. -#}
{% macro changed_day(column) -%}
    coalesce(({{ column }} at time zone 'UTC')::date, {{ every_day() }})
{%- endmacro %}

{% macro every_day() -%} date '0001-01-01' {%- endmacro %}

{#- Notes a table that is made anew; `replace_days` notes the days of one that is not. Does nothing for a view. -#}
{% macro note_made_anew() %}
    {%- if model.config.materialized != 'view' and not is_incremental() -%}
    insert into {{ changed_days() }} values ('{{ this.identifier }}', {{ every_day() }}) on conflict do nothing
    {%- endif -%}
{% endmacro %}
