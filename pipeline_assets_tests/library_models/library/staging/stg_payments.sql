with

versions as (
    {{ versions_of(
        source('raw', 'payments'),
        key=['payment_id'],
        known_at='recorded_at',
    ) }}
),

renamed as (
    select
        payment_id,
        loan,

        amount,

        paid_at,
        recorded_at as known_at
    from versions
    where is_current
)

select * from renamed
