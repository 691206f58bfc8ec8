with

source as (
    select * from {{ source('raw', 'planes') }}
),

renamed as (
    select
        tailnum,

        kind,
        manufacturer,
        model,
        engine,

        year_built,
        engines,
        seats,

        updated_at as known_at
    from source
),

-- A row may be published again with corrections: the one known last counts.
newest as (
    select distinct on (tailnum) *
    from renamed
    order by tailnum, known_at desc, renamed desc
)

select * from newest
