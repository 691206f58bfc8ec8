with

source as (
    select * from {{ source('raw', 'members') }}
),

renamed as (
    select
        member_id,
        level::varchar(20) as level,
        updated_at as known_at
    from source
),

newest as (
    select distinct on (member_id) *
    from renamed
    order by member_id, known_at desc, renamed desc
)

select * from newest
