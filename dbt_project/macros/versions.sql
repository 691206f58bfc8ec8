{#-
    The versions of the rows of a raw table, and the rows as they are now.

    A raw table has a row for each version of a key that its source has had. `versions_of` gives each that ever counted once, in its
    columns, with what dbt's snapshots call valid_from, valid_to and is current:

        superseded_at  when the next version of the key was known, or its deletion; null for the version that counts now
        is_current     whether that is null
        version        its number among those of its key, from 1

    A version counts from `known_at` until `superseded_at`, so that at each moment a key has one row or none: what was known
    at a time is `known_at <= time and (superseded_at > time or superseded_at is null)`. A row that was sent again without a change, but for
    `known_at`, is no new version: the earliest time stays. Of versions that were known at the same time the greatest row counts.

    A staging model reads its raw table by it, and renames and casts:

        with versions as ({{ versions_of(source('raw', 'orders'), key=['order_id'], known_at='recorded_at') }}),
        renamed as (select order_id, amount, recorded_at as known_at, superseded_at, version, is_current from versions)
        select * from renamed

    A cleaned table with all versions ends in `_history`, and has `known_at` in its unique key; beside it stands, under the name that people
    know, a view of the rows as they are now:

        select order_id, amount, known_at from {{ ref('orders_history') }} where is_current

    How long it keeps versions that count no more is said in its YAML: `keeps_versions.sql`.
-#}
{% macro versions_of(rows, key, known_at) -%}
    {%- set by_key = 'partition by ' ~ key | join(', ') ~ ' order by ' ~ known_at -%}
    {%- set others = "'{" ~ known_at ~ ", _deleted_at, _loaded_at}'::text[]" -%}
    select
        *,
        superseded_at is null as is_current,
        row_number() over ({{ by_key }}) as version
    from (
        select
            *,
            least(_deleted_at, lead({{ known_at }}) over ({{ by_key }}, whole)) as superseded_at
        from (
            select
                *,
                lag(1) over by_time is not null
                and lag(_deleted_at) over by_time is null
                and to_jsonb(whole) - {{ others }} = lag(to_jsonb(whole) - {{ others }}) over by_time as is_repeat
            from (select *, raw as whole from {{ rows }} as raw) as all_rows
            window by_time as ({{ by_key }}, whole)
        ) as compared
        where not is_repeat
    ) as of_versions
    where superseded_at is null or superseded_at > {{ known_at }}
{%- endmacro %}
