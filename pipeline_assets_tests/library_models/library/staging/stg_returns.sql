with

source as (
    select * from {{ source('raw', 'returns') }}
),

renamed as (
    select
        library_id::integer as library_id,
        loan_no::integer as loan_no,

        is_damaged,

        returned_at,
        recorded_at as known_at
    from source
),

newest as (
    select distinct on (library_id, loan_no) *
    from renamed
    order by library_id, loan_no, known_at desc, renamed desc
)

select * from newest
