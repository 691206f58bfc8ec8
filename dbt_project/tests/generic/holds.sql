{#- `rule`, an expression over the columns of a row, is true or unknown for every row. -#}
{% test holds(model, rule) %}

select *
from {{ model }}
where not ({{ rule }})

{% endtest %}
