with

source as (
    select * from {{ source('raw', 'payments') }}
),

renamed as (
    select
        payment_id,
        loan,

        amount,

        paid_at,
        recorded_at as known_at
    from source
),

newest as (
    select distinct on (payment_id) *
    from renamed
    order by payment_id, known_at desc, renamed desc
)

select * from newest
