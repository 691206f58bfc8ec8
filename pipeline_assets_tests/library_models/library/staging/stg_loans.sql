with

versions as (
    {{ versions_of(
        source('raw', 'loans'),
        key=['library_id', 'loan_no'],
        known_at='recorded_at',
    ) }}
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
    from versions
    where is_current
)

select * from renamed
