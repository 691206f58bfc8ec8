with

aircraft as (
    select
        tailnum,
        kind,
        manufacturer,
        model,
        engine,
        year_built,
        engines,
        seats,
        known_at
    from {{ ref('aircraft_history') }}
    where is_current
)

select * from aircraft
