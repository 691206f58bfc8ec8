with

source as (
    select * from {{ source('raw', 'airlines') }}
),

renamed as (
    select
        carrier,

        name,

        updated_at as known_at
    from source
),

-- A row may be published again with corrections: the one known last counts.
newest as (
    select distinct on (carrier) *
    from renamed
    order by carrier, known_at desc, renamed desc
)

select * from newest
