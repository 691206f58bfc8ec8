"""Which SQL of models may run on a stream: what is refused, with its line, and what is not."""

from dataclasses import replace

import pytest

from pipeline_assets.core.declarations import load_project
from pipeline_assets.core.errors import NotDerivable
from pipeline_assets.processing.cleaning.dbt import project_folder
from pipeline_assets.processing.cleaning.derivations import derivation_of, statements, versions_block
from pipeline_assets.processing.cleaning.manifest import read_manifest
from pipeline_assets.processing.cleaning.models import ProjectModels
from pipeline_assets.processing.cleaning.row_by_row import constructs, problems

RAW = '"db"."raw"."events"'
OTHER = '"db"."cleaned"."others"'
QUERY = "with events as (\n    select * from {raw}\n)\n\nselect\n    id,\n    {column}\nfrom events\n{rest}"


def found(column: str = "1 as one", rest: str = "") -> set[tuple[int, str]]:
    """What is refused of a query with a column on line 7 and something on line 9."""
    return set(constructs(QUERY.format(raw=RAW, column=column, rest=rest), frozenset({RAW, OTHER})))


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("now() as at", "calls now(), the wall clock"),
        ("current_date as day", "asks for current_date, the wall clock"),
        ("current_timestamp as at", "asks for current_timestamp, the wall clock"),
        ("clock_timestamp() as at", "calls clock_timestamp(), the wall clock"),
        ("'today'::date as day", "has the text 'today', which is the clock where Postgres takes it for a time"),
        ("random() as luck", "calls random(), another value each time"),
        ("gen_random_uuid() as id", "calls gen_random_uuid(), another value each time"),
        ("nextval('numbers') as number", "calls nextval(), another value each time"),
        ("current_user as who", "asks for current_user, which depends on the session or its database"),
        ("current_setting('a.b') as it", "calls current_setting(), which depends on the session or its database"),
        ("txid_current() as it", "calls txid_current(), which depends on the session or its database"),
        ("my_rate(id) as rate", "calls my_rate(), which is not known to give the same anywhere"),
        ('"now"() as at', "calls now(), the wall clock"),
        ("shop.rate(id) as rate", "calls shop.rate(), a function that is not built in"),
        ("count(*) as n", "calls count(), an aggregate"),
        ("row_number() over (partition by id) as n", "has a window function (over)"),
        ("(select max(id) from events) as n", "has a subquery beside its rows"),
        ("unnest(array[1, 2]) as n", "calls unnest(), which gives any number of rows"),
        ("'orders'::regclass as oid", "has the type regclass, which reads the catalog of its database"),
        ("_loaded_at", "reads _loaded_at, the wall-clock time of the copy"),
    ],
)
def test_a_value_that_does_not_follow_from_its_row_is_refused_with_its_line(column: str, words: str) -> None:
    """The clock, chance, the session, unknown functions, other rows: each is named on the line that it stands on."""
    assert (7, words) in found(column)


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        (f"left join {OTHER} as others on true", "has a join"),
        (f", {OTHER} as others", "has a join"),
        (f"union all select * from {OTHER}", "has the set operation union"),  # noqa: S608 - SQL that is refused
        ("group by id", "has group by"),
        ("having true", "has having"),
        ("order by id", "has order by"),
        ("limit 5", "has limit"),
        ("where exists (select 1 from events)", "has a subquery beside its rows"),
    ],
)
def test_what_takes_rows_together_is_refused_with_its_line(rest: str, words: str) -> None:
    """Joins, set operations, groups and orders are named on the line that they stand on."""
    assert (9, words) in found(rest=rest)


def test_another_relation_is_refused() -> None:
    """What dbt does not know to be read, as it stands there without `ref`, is named."""
    sql = "select *\nfrom shop.orders"

    assert set(constructs(sql, frozenset({RAW}))) == {(2, "reads shop.orders, which is not the relation that it refers to")}


@pytest.mark.parametrize(
    "column",
    [
        "(extract(epoch from ended_at - began_at) / 60)::bigint as minutes",
        "case when kind in ('a', 'b') then lower(trim(both from kind)) else 'none' end as kind",
        "a is not distinct from b and (c or d) as is_so",
        "began_at at time zone 'America/New_York' - interval '60 minutes' as at",
        "price::numeric(10, 2), coalesce(nullif(a, ''), b), substring(kind from '[0-9]+' for '#') as part",
        "\"order\", t.user, kind ~* 'x', e'\\n', values_of.limit as over -- now()",
    ],
)
def test_what_follows_from_its_row_may_run_on_a_stream(column: str) -> None:
    """Casts, cases, times, texts and names that are words of SQL elsewhere are no problem, nor is a comment."""
    assert found(column, "where id > 3 and kind is not null") == set()


def test_the_lines_are_those_of_the_file() -> None:
    """A join is named with the model's file, and the line there, whatever the macros above it made."""
    (problem,) = problems(read_manifest(project_folder()), "fixtures_history")
    lines = (project_folder() / problem.file).read_text().splitlines()

    assert problem.model == "fixtures_history"
    assert problem.line is not None
    assert "left join clubs" in lines[problem.line - 1]
    assert problem.construct == "has a join"


def test_only_what_the_macro_renders_is_taken_for_versions() -> None:
    """The windows of `versions_of` are excepted to the letter: one sign more, and they are windows like others."""
    manifest = read_manifest(project_folder())
    model = manifest["nodes"]["model.pipeline.stg_flight_departures"]
    raw = manifest["sources"]["source.pipeline.raw.flight_departures"]["relation_name"]
    block = versions_block(manifest, model["compiled_code"], raw)

    assert block is not None
    assert block["key"] == "flight_id"
    assert versions_block(manifest, model["compiled_code"].replace("where not is_repeat", "where not is_repeat or true"), raw) is None


def test_a_chain_becomes_temporary_views() -> None:
    """Settings, then the raw rows, then each model above them; no relation of the warehouse is left."""
    derivation = derivation_of(read_manifest(project_folder()), "departures_history")
    made = statements(derivation, "select * from rows_at_hand")

    assert (derivation.source, derivation.keys, derivation.key_of_raw) == ("flight_departures", ("flight_id",), ("flight_id",))
    assert [one.partition(" as\n")[0] for one in made if one.startswith("create")] == [
        f'create temporary view "{name}"' for name in ("flight_departures", "stg_flight_departures", "departures_history")
    ]
    assert not any(step.relation in text for step in derivation.steps for text in made)


def test_a_table_of_two_sources_has_no_derivation() -> None:
    """The error names the table, the model and what it reads."""
    with pytest.raises(NotDerivable, match=r"'fixtures_history' .* reads 2 relations"):
        derivation_of(read_manifest(project_folder()), "fixtures_history")


def test_a_view_that_no_stream_can_keep_is_a_problem_of_its_declaration() -> None:
    """It says which model, where, what it reads, and that the view can follow its table."""
    project = load_project()
    streamed = tuple(
        replace(one, models=tuple(replace(model, views=tuple(replace(v, online="stream") for v in model.views)) for model in one.models))
        for one in project.use_cases
    )
    models = ProjectModels(project=replace(project, use_cases=streamed), manifest=read_manifest(project_folder()))
    listed = {problem.subject: str(problem) for problem in models.problems()}

    assert listed.keys() == {"View 'origin_weather'", "View 'aircraft_attributes'"}
    assert "stg_weather.sql:5) reads raw table 'weather', which no stream fills" in listed["View 'origin_weather'"]
    assert "online='table'" in listed["View 'origin_weather'"]
