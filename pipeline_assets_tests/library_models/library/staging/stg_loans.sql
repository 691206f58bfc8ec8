with

source as (
    select * from {{ source('raw', 'loans') }}
),

renamed as (
    select
        library_id::integer as library_id,
        loan_no::integer as loan_no,
        loan_id,
        member_id,

        fee::numeric(8, 2) as fee,

        (due_at at time zone 'UTC')::date as due_on,
        loaned_at,
        recorded_at as known_at
    from source
),

newest as (
    select distinct on (library_id, loan_no) *
    from renamed
    order by library_id, loan_no, known_at desc, renamed desc
)

select * from newest
