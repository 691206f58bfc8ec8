"""The functions of Postgres that may derive rows on a stream: what they give follows from arguments, and from settings of the session.

Those settings are fixed (`SESSION` of `derivations.py`). A test compares the list with `pg_proc` of the real Postgres.
"""


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


# What the grammar knows by itself; it stands in no catalog.
OF_GRAMMAR = words("cast coalesce nullif greatest least extract trim overlay position substring normalize collation")
TEXT = words(
    "ascii btrim char_length character_length chr concat concat_ws initcap left length lower lpad ltrim md5 octet_length bit_length "
    "quote_ident quote_literal quote_nullable regexp_count regexp_instr regexp_like regexp_replace regexp_substr regexp_match repeat "
    "replace reverse right rpad rtrim split_part starts_with strpos substr to_hex translate upper encode decode sha224 sha256 sha384 "
    "sha512 string_to_array array_to_string format unistr"
)
NUMBERS = words(
    "abs ceil ceiling cbrt degrees div exp factorial floor gcd lcm ln log log10 mod pi power radians round scale min_scale trim_scale sign "
    "sqrt trunc width_bucket acos asin atan atan2 cos cot sin tan sinh cosh tanh asinh acosh atanh erf erfc to_number"
)
TIMES = words(
    "date_bin date_part date_trunc date_add date_subtract timezone date make_date make_time make_timestamp make_timestamptz make_interval "
    "justify_days justify_hours justify_interval isfinite to_timestamp to_date to_char"
)
VALUES = words(
    "to_json to_jsonb json_build_object jsonb_build_object json_build_array jsonb_build_array json_typeof jsonb_typeof json_array_length "
    "jsonb_array_length json_extract_path json_extract_path_text jsonb_extract_path jsonb_extract_path_text jsonb_strip_nulls jsonb_set "
    "array_length array_position array_append array_cat array_remove cardinality num_nulls num_nonnulls hashtext"
)
ROW_FUNCTIONS = OF_GRAMMAR | TEXT | NUMBERS | TIMES | VALUES
# What the macro `versions_of` calls beside them.
OF_VERSIONS = words("row_number lead lag first_value count")

# Words by which Postgres reads the clock where a text becomes a time.
CLOCK_WORDS = frozenset(("now", "today", "tomorrow", "yesterday"))
CLOCK = words(
    "now current_date current_time current_timestamp localtime localtimestamp clock_timestamp statement_timestamp transaction_timestamp "
    "timeofday age"
)
AGGREGATES = words(
    "count sum avg min max bool_and bool_or every string_agg array_agg json_agg jsonb_agg json_object_agg jsonb_object_agg stddev "
    "stddev_pop stddev_samp variance var_pop var_samp mode percentile_cont percentile_disc bit_and bit_or any_value corr"
)
WINDOWS = words("row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value nth_value")
RANDOM = words("random random_normal setseed gen_random_uuid uuidv4 uuidv7 gen_random_bytes uuid_generate_v4 nextval currval lastval")
SESSIONS = words(
    "current_user current_role current_catalog current_schema session_user system_user user current_setting set_config current_database "
    "version pg_backend_pid txid_current pg_current_xact_id inet_client_addr inet_server_addr"
)
ROWS = words(
    "unnest generate_series generate_subscripts jsonb_array_elements json_array_elements jsonb_each json_each jsonb_object_keys "
    "regexp_matches regexp_split_to_table string_to_table jsonb_to_recordset json_to_recordset"
)
# What gives the same of the same rows, however many of them it reads.
OF_ROWS = ROW_FUNCTIONS | OF_VERSIONS | AGGREGATES | WINDOWS | ROWS
KINDS = {
    "the wall clock": CLOCK,
    "an aggregate": AGGREGATES,
    "a window function": WINDOWS,
    "another value each time": RANDOM,
    "which depends on the session or its database": SESSIONS,
    "which gives any number of rows": ROWS,
}


def kind_of(name: str) -> str:
    """What a function is that may not run on a stream, in words."""
    return next((kind for kind, members in KINDS.items() if name in members), "which is not known to give the same anywhere")
