{#-
    The versions of the rows of a raw table, and the rows as they are now.

    A raw table has a row for each version of a key that its source has had. `versions_of` gives each that ever counted once, in its
    columns, with what dbt's snapshots call valid_from, valid_to and is current:

        superseded_at  when the next version of the key was known, or its deletion; null for the version that counts now
        is_current     whether that is null
        version        its number among those of its key, from 1

    A version counts from `known_at` until `superseded_at`, so that at each moment a key has one row or none: `was_known_at` below picks it.
    A row that was sent again without a change, but for `known_at`, is no new version: the earliest time stays, and the version ends when
    the last of them was deleted. A row that was deleted before it was known never counted. Of versions that were known at the same time the
    one that was deleted last or not at all counts, as a row that moved to another day stands on the old one as deleted; of these the
    greatest row.

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
    {%- set keys = key | join(', ') -%}
    {%- set by_key = 'partition by ' ~ keys ~ ' order by ' ~ known_at -%}
    {%- set in_order = by_key ~ ', _deleted_at, whole' -%}
    {%- set others = "'{" ~ known_at ~ ", _deleted_at, _loaded_at}'::text[]" -%}
    select
        *,
        superseded_at is null as is_current,
        row_number() over ({{ by_key }}) as version
    from (
        select
            *,
            least(_ended_at, lead({{ known_at }}) over ({{ in_order }})) as superseded_at
        from (
            select
                *,
                first_value(_deleted_at) over (
                    partition by {{ keys }}, _run order by {{ known_at }} desc, _deleted_at desc, whole desc
                ) as _ended_at
            from (
                select
                    *,
                    count(*) filter (where not is_repeat) over ({{ in_order }}) as _run
                from (
                    select
                        *,
                        lag(1) over by_time is not null
                        and coalesce(lag(_deleted_at) over by_time > {{ known_at }}, true)
                        and to_jsonb(whole) - {{ others }} = lag(to_jsonb(whole) - {{ others }}) over by_time
                        as is_repeat
                    from (
                        select *, raw as whole
                        from {{ rows }} as raw
                        where _deleted_at is null or _deleted_at > {{ known_at }}
                    ) as all_rows
                    window by_time as ({{ in_order }})
                ) as compared
            ) as in_runs
        ) as ended
        where not is_repeat
    ) as of_versions
    where superseded_at is null or superseded_at > {{ known_at }}
{%- endmacro %}

{#-
    Whether a row of `versions`, the alias of a table with all versions, counted at a time: known by then, and not superseded yet.

    So reference data is joined as it was known at the time of the row, and not as it is now:

        select orders.order_id, customers.country
        from orders
        left join {{ ref('customers_history') }} as customers
            on customers.customer_id = orders.customer_id
            and {{ was_known_at('customers', 'orders.known_at') }}

    The join keeps the rows as many as they were, as a key has one version or none at each time. The columns are null where the key was not
    known yet, or was deleted; what a model learns to do with that must not be hidden by a value that was known only later.

    `at` is the time from which on the row itself is used. Of events, labels and plans that is their `known_at`. Of observations it may also
    be their `decision_at`, if no view counts them as events: they are asked at no other time. A decision that is still to come when its row
    is built gets what is known by then, as no later change of reference data builds the row again.
-#}
{% macro was_known_at(versions, at) -%}
    (
        {{ versions }}.known_at <= {{ at }}
        and ({{ versions }}.superseded_at > {{ at }} or {{ versions }}.superseded_at is null)
    )
{%- endmacro %}
