with

versions as (
    {{ versions_of(
        source('raw', 'flight_arrivals'),
        key=['flight_id'],
        known_at='recorded_at',
    ) }}
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
        recorded_at as known_at,
        superseded_at,
        version,
        is_current
    from versions
)

select * from renamed
