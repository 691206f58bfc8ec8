{#-
    The schema of a model is its folder: models/<use_case>/staging or models/<use_case>/cleaned, without dbt's prefix. So a use case needs
    no block in dbt_project.yml, and the assets are called staging/<model> and cleaned/<model> wherever dbt runs.
-#}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {%- if node.resource_type != 'model' -%}
        {{ custom_schema_name | default(target.schema, true) | trim }}
    {%- elif custom_schema_name is not none -%}
        {{ exceptions.raise_compiler_error(
            "Model '" ~ node.name ~ "' (" ~ node.original_file_path ~ ") sets schema '" ~ custom_schema_name ~ "'. Remove the setting: "
            ~ "the schema of a model is its folder, models/<use_case>/staging or models/<use_case>/cleaned."
        ) }}
    {%- elif node.fqn | length != 4 or node.fqn[2] not in ('staging', 'cleaned') -%}
        {{ exceptions.raise_compiler_error(
            "Model '" ~ node.name ~ "' lies in " ~ node.original_file_path ~ ", and its schema follows from its folder. Move it to "
            ~ "models/<use_case>/staging or models/<use_case>/cleaned."
        ) }}
    {%- else -%}
        {{ node.fqn[2] }}
    {%- endif -%}
{%- endmacro %}
