{#-
    How long a table keeps versions that count no more, as the YAML of its model says; for ever where it says nothing:

        config:
          meta:
            keeps_versions: 400 days

    At the end of each build, in its transaction, the versions are deleted that were superseded that long before the newest `known_at` of
    the table that is not in the future, as one mistaken time would else delete them all. So the clock is the data's own, and the past can
    be replayed. What was known at that instant or later needs none of them, as it is `superseded_at > time`. Versions that count now stay,
    whatever their age.

    Since when a table keeps all versions is noted and never goes back, so that tables built by ranges of days in any order and tables
    built at once are equal, also after the newest row was withdrawn. It begins anew with a table that is made anew under another
    retention: the raw table still has all versions.
-#}
{% macro versions_since() -%} publishing.versions_since {%- endmacro %}

{#- The notes, beside the outbox of `make_changed_days`. `keeps` is the retention under which the note began. -#}
{% macro make_versions_since() -%}
    create table if not exists {{ versions_since() }} (table_name text primary key, keeps text not null, since timestamptz not null)
{%- endmacro %}

{#- The declared retention in the words of the YAML; none where there is none. -#}
{% macro kept_versions() -%}
    {%- set keeps = model.config.get('meta', {}).get('keeps_versions') -%}
    {%- if execute and keeps is not none and not modules.re.fullmatch('[1-9][0-9]{0,4} days?', keeps | string) -%}
        {{ exceptions.raise_compiler_error(
            "Model '" ~ model.name ~ "' says keeps_versions: " ~ keeps ~ ". Expected: whole days, such as '400 days'."
        ) }}
    {%- endif -%}
    {{ return(keeps) }}
{%- endmacro %}

{#- A pre-hook: takes out the note of a table that is made anew under another retention, or under none. -#}
{% macro begin_versions_anew() %}
    {%- if model.config.materialized != 'view' and not is_incremental() -%}
    {%- set keeps = kept_versions() -%}
    delete from {{ versions_since() }}
    where
        table_name = '{{ this.identifier }}'
        {%- if keeps is not none %}
        and keeps != '{{ keeps }}'
        {%- endif %}
    {%- endif -%}
{% endmacro %}

{#- A post-hook: deletes the versions beyond the retention, and notes their days for the lake as `replace_days` does. -#}
{% macro drop_old_versions() %}
    {%- set keeps = kept_versions() -%}
    {%- if keeps is not none and model.config.materialized != 'view' -%}
    {%- set at = config.get('event_time') -%}
    with newest as (
        select max(known_at) - make_interval(hours => 24 * {{ (keeps | string).split(' ')[0] }}) as since
        from {{ this }}
        where known_at <= now()
    ),

    bound as (
        insert into {{ versions_since() }} as noted (table_name, keeps, since)
        select '{{ this.identifier }}', '{{ keeps }}', since from newest where since is not null
        on conflict (table_name) do update set since = greatest(noted.since, excluded.since)
        returning since as kept_since
    ),

    gone as (
        delete from {{ this }} using bound
        where superseded_at <= kept_since
        returning {{ changed_day(at) if at else every_day() }} as day
    )

    insert into {{ changed_days() }} (table_name, day)
    select distinct '{{ this.identifier }}', day from gone
    on conflict do nothing
    {%- endif -%}
{% endmacro %}
