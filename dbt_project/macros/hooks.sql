{#- What every model does before and after it is built. Both do nothing for a view. -#}

{#-
    Lets no second run write this table until the transaction ends; readers go on. A pre-hook, so that the lock is held before the
    new rows are read: of two runs at once, the later one sees what the earlier one saw, or newer.
-#}
{% macro lock_this() %}
    {%- if is_incremental() -%}
    lock table {{ this }} in share row exclusive mode
    {%- endif -%}
{% endmacro %}

{#- So that whatever reads the table next is planned by its present rows. -#}
{% macro analyze_this() %}
    {%- if model.config.materialized != 'view' -%}
    analyze {{ this }}
    {%- endif -%}
{% endmacro %}
