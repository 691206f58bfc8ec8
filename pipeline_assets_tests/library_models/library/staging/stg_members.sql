with

versions as (
    {{ versions_of(
        source('raw', 'members'), key=['member_id'], known_at='updated_at'
    ) }}
),

renamed as (
    select
        member_id,
        level::varchar(20) as level,
        updated_at as known_at,
        superseded_at,
        version,
        is_current
    from versions
)

select * from renamed
