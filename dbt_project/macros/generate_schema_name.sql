{#- Schemas are named exactly as configured, without dbt's prefix: `staging`, `cleaned`. -#}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {{ custom_schema_name | default(target.schema, true) | trim }}
{%- endmacro %}
