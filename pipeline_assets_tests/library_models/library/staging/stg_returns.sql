with

versions as (
    {{ versions_of(
        source('raw', 'returns'),
        key=['library_id', 'loan_no'],
        known_at='recorded_at',
    ) }}
),

renamed as (
    select
        library_id::integer as library_id,
        loan_no::integer as loan_no,

        is_damaged,

        returned_at,
        recorded_at as known_at
    from versions
    where is_current
)

select * from renamed
