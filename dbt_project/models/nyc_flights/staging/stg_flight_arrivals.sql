with

source as (
    select * from {{ source('raw', 'flight_arrivals') }}
),

renamed as (
    select
        flight_id,
        carrier,
        tailnum,
        origin,
        dest,

        delay_minutes,

        event_at,
        recorded_at as known_at
    from source
),

-- A row may be published again with corrections: the one known last counts.
newest as (
    select distinct on (flight_id) *
    from renamed
    order by flight_id, known_at desc, renamed desc
)

select * from newest
