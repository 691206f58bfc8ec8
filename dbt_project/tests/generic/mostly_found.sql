{#- At least `share` (0 to 1) of the values that are not null are found in the column `field` of `to`. -#}
{% test mostly_found(model, column_name, to, field, share) %}

with

children as (
    select {{ column_name }} as value
    from {{ model }}
    where {{ column_name }} is not null
),

found as (
    select avg((value in (select {{ field }} from {{ to }}))::int) as share
    from children
)

select share
from found
where share < {{ share }}

{% endtest %}
