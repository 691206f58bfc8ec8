"""Which registers may be left as they are, by their SQL and by what they were made from; no service is needed for it."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from pipeline_assets.core.declarations import load_project
from pipeline_assets.processing.cleaning.dbt import project_folder
from pipeline_assets.processing.cleaning.inspection import Held
from pipeline_assets.processing.cleaning.models import read_models
from pipeline_assets.processing.cleaning.repeatable import is_repeatable
from pipeline_assets.processing.cleaning.unchanged import Facts, Look, Note, Registers, definition_of

MODELS = read_models(load_project())
FLIGHTS = MODELS.project.use_case("nyc_flights")
AIRLINES, STAGED, RAW = "model.pipeline.airlines", "model.pipeline.stg_airlines", "source.pipeline.raw.airlines"
OF_AIRLINES = {AIRLINES, STAGED}


def registers() -> Registers:
    """The registers of the flights."""
    _, found = MODELS.selections(FLIGHTS)
    return Registers(definition=definition_of(project_folder()), manifest=MODELS.manifest, models=found.models, tests=found.tests)


def changed(**values: Any) -> Mapping[str, Any]:
    """The manifest with other values of the model of airlines; those that are dictionaries are merged."""
    manifest = deepcopy(dict(MODELS.manifest))
    node = manifest["nodes"][AIRLINES]
    node.update({name: {**node[name], **value} if isinstance(value, dict) else value for name, value in values.items()})
    return manifest


def read_as(sql: str) -> Mapping[str, Any]:
    """The same, where the model is compiled to a query of its staging view."""
    return changed(compiled_code=sql.format(staged=MODELS.manifest["nodes"][STAGED]["relation_name"]))


def test_all_registers_of_the_project_may_be_left() -> None:
    """Those of all use cases: macros, hooks and tests of the project give the same of the same rows."""
    selections = [MODELS.selections(use_case)[1] for use_case in MODELS.project.use_cases]
    tests, below = {test for one in selections for test in one.tests}, MODELS.manifest["child_map"]
    models = [model for one in selections for model in one.models]
    found = {model: is_repeatable(MODELS.manifest, model, tests & {*below[model]}) for model in models}

    assert len(found) >= 10
    assert {model for model, may in found.items() if not may} == set()


@pytest.mark.parametrize(
    "sql",
    [
        "select carrier, upper(name) as name from {staged}",
        "with one (carrier) as (select carrier from {staged}) select carrier, count(*) from one group by 1 order by max(carrier) limit 3",
        "select carrier, row_number() over (order by carrier) as number from {staged} as a join {staged} as b using (carrier)",
    ],
)
def test_what_follows_from_the_rows_may_be_left(sql: str) -> None:
    """Known functions, aggregates, windows and joins of what dbt knows that the model reads."""
    assert is_repeatable(read_as(sql), AIRLINES, ())


@pytest.mark.parametrize(
    "manifest",
    [
        read_as("select carrier, now() as seen_at from {staged}"),
        read_as("select carrier, current_date as on_day from {staged}"),
        read_as("select carrier from {staged} where known_at < 'today'::timestamptz"),
        read_as("select carrier, random() as share from {staged}"),
        read_as("select carrier, of_other_hands(name) as name from {staged}"),
        read_as("select carrier from {staged} union all select carrier from elsewhere.airlines"),
        read_as("select carrier from {staged} tablesample system (10)"),
        read_as("select carrier, _loaded_at from {staged}"),
        read_as("select ((carrier from {staged}"),
        changed(compiled_code=None),
        changed(raw_code="select '{{ run_started_at }}' as built_at from {{ ref('stg_airlines') }}"),
        changed(raw_code="select '{{ env_var(\"REGION\") }}' as region from {{ ref('stg_airlines') }}"),
        changed(config={"materialized": "incremental"}),
        changed(config={"meta": {"keeps_versions": "400 days"}}),
        changed(config={"post-hook": [{"sql": "delete from {{ this }} where name is null"}]}),
        changed(language="python"),
    ],
)  # fmt: skip
def test_what_may_come_out_otherwise_is_built_each_time(manifest: Mapping[str, Any]) -> None:
    """The clock, chance, the environment, functions and tables that dbt knows nothing of, and what adds to what is there."""
    assert not is_repeatable(manifest, AIRLINES, ())


@pytest.mark.parametrize(
    "rule",
    [
        {"test_metadata": {"kwargs": {"rule": "known_at > current_date - 30"}}},
        {"test_metadata": {"kwargs": {"rule": "known_at < 'Tomorrow'::timestamptz"}}},
        {"config": {"where": "known_at > now() - interval '7 days'"}},
        {"depends_on": {"macros": ["macro.dbt_utils.test_recency"]}},
    ],
)
def test_a_test_that_may_end_otherwise_has_its_model_built_each_time(rule: Mapping[str, Any]) -> None:
    """A rule about today may fail tomorrow, though no row has changed; wherever it stands, and what macros of packages do is not known."""
    found = registers()
    (name, *_) = sorted(found.tests_of(AIRLINES))
    manifest = deepcopy(dict(MODELS.manifest))
    manifest["macros"]["macro.dbt_utils.test_recency"] = {"package_name": "dbt_utils", "depends_on": {"macros": []}, "macro_sql": ""}
    node = manifest["nodes"][name]
    node.update({part: {**(node.get(part) or {}), **value} for part, value in rule.items()})

    assert is_repeatable(MODELS.manifest, AIRLINES, found.tests_of(AIRLINES))
    assert not is_repeatable(manifest, AIRLINES, found.tests_of(AIRLINES))


def test_what_the_configuration_of_a_test_says_has_it_evaluated() -> None:
    """Another severity, as of the environment, is another result of the same rows."""
    before = look()
    (name, *_) = sorted(before.registers.tests_of(AIRLINES))
    manifest = deepcopy(dict(MODELS.manifest))
    manifest["nodes"][name]["config"]["severity"] = "warn"

    assert AIRLINES in replace(before, registers=replace(before.registers, manifest=manifest)).due


def look() -> Look:
    """All registers as they were left by a build."""
    found = registers()
    held: dict[str, Held | None] = {
        one: Held(digest=one, rows=1) for one in found.models.union(*(found.above(model) for model in found.models))
    }
    notes = {model: Note(made_from=found.made_from(model, held) or "", held=model, facts=Facts()) for model in found.models}
    return Look(registers=found, held=held, notes=notes)


def test_nothing_is_due_where_all_is_as_it_was_left() -> None:
    """Then each model is reported with what was noted of it, after all that it reads."""
    left = list(look().unchanged)

    assert (look().due, {*left}) == (frozenset(), {*registers().models})
    assert all(
        left.index(parent) < left.index(model) for model in left for parent in MODELS.manifest["parent_map"][model] if parent in left
    )


@pytest.mark.parametrize(
    ("relation", "held", "due"),
    [
        (RAW, Held(digest="other rows", rows=2), OF_AIRLINES),
        (RAW, None, OF_AIRLINES),
        (STAGED, Held(digest="another query", rows=None), OF_AIRLINES),
        (STAGED, None, OF_AIRLINES),
        (AIRLINES, Held(digest="lost a row", rows=0), {AIRLINES}),
        (AIRLINES, None, {AIRLINES}),
    ],
)
def test_what_differs_is_due_with_what_reads_it(relation: str, held: Held | None, due: set[str]) -> None:
    """A relation that is another or is gone, at any place; registers beside it are left."""
    before = look()

    assert replace(before, held={**before.held, relation: held}).due == due


def test_models_that_a_test_compares_are_due_together() -> None:
    """Whichever of the two changed, the test has to be evaluated, which reads both."""
    found = look().registers
    manifest = deepcopy(dict(MODELS.manifest))
    test, airports = "test.pipeline.compares", "model.pipeline.airports"
    for model in (AIRLINES, airports):
        manifest["child_map"][model] = [*manifest["child_map"][model], test]
    manifest["parent_map"][test] = [AIRLINES, airports]
    compared = replace(found, manifest=manifest, tests=found.tests | {test})

    assert compared.due([AIRLINES]) == compared.due([airports]) == {AIRLINES, airports}
    assert found.due([AIRLINES]) == {AIRLINES}
