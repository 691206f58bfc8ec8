"""Several use cases as one project: what is shared is one thing, what clashes is refused, and folders are loaded or reported."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest

from pipeline_assets.core import declarations
from pipeline_assets.core.declarations import load_project, read_project
from pipeline_assets.core.errors import SpecError
from pipeline_assets.core.prediction_streams import use_case as platform
from pipeline_assets.core.project import Project, Span
from pipeline_assets.core.rules import sources
from pipeline_assets.core.settings import CodeSettings, read_code_settings
from pipeline_assets.spec.use_case import UseCase

FLIGHTS = load_project().use_case("nyc_flights")
DELAY = FLIGHTS.models[0]


def _other(**changed: object) -> UseCase:
    """A second use case that shares all sources and views with the flights, with a model of its own."""
    model = replace(DELAY, name="other_delay")
    return replace(FLIGHTS, **{"name": "other", "models": (model,), **changed})  # type: ignore[arg-type]


def check(*use_cases: UseCase) -> Project:
    """The use cases as one project."""
    return declarations.check(use_cases, read_code_settings().dbt_project)


def test_what_two_use_cases_share_is_one_thing() -> None:
    """Equal sources, streams and views appear once; the models of both use the view."""
    project = check(FLIGHTS, _other())

    assert len(project.sources) == len(FLIGHTS.sources)
    assert len(project.streams) == len(FLIGHTS.streams) + len(platform.streams)
    assert [model.name for model in project.models_of(DELAY.views[0])] == ["flight_delay", "arrival_delay", "other_delay"]
    assert project.homes_of(FLIGHTS.sources[0].contract) == (FLIGHTS, _other())


def test_histories_reach_the_lake_as_events() -> None:
    """Sources and streams have one lake table each, by day unless loaded whole or followed; a stream's history has none, listed or not."""
    unlisted = tuple(source for source in FLIGHTS.sources if source.contract.name != "flight_history")

    tables = {contract.name: by_day for contract, by_day in check(FLIGHTS, _other(sources=unlisted)).lake_contracts}

    assert tables == {
        "planes": False, "airports": False, "airlines": False, "flight_schedule": True, "weather": True,
        "flight_departures": True, "flight_arrivals": True, "prediction_log": True, "prediction_feedback": True,
    }  # fmt: skip


def test_what_is_predicted_is_recorded_in_streams_of_the_platform() -> None:
    """They are declared once, whoever has models, keep all rules of streams, belong to no use case, and have days of their own."""
    project = check(FLIGHTS, _other())

    assert project.use_cases == (FLIGHTS, _other())
    assert [stream.contract.name for stream in project.streams][-2:] == ["prediction_log", "prediction_feedback"]
    assert project.home_of(platform.streams[0].contract) is platform
    assert project.span_of(platform) == Span(first=platform.first_day, last=None)
    assert project.span_of(FLIGHTS) == Span(first=FLIGHTS.first_day, last=FLIGHTS.last_day)
    assert list(sources.problems(platform, platform.streams)) == []


@pytest.mark.parametrize(
    ("changed", "subject", "problem"),
    [
        ({"name": "platform"}, "Use case 'platform'", "is 'platform'"),
        (
            {"streams": (replace(FLIGHTS.streams[0], contract=replace(FLIGHTS.streams[0].contract, name="prediction_log")),)},
            "Contract 'prediction_log'",
            "is also declared in pipeline_assets/core/prediction_streams.py (use case 'platform'), differently",
        ),
    ],
)
def test_what_the_platform_calls_its_own_is_nobody_elses(changed: dict[str, object], subject: str, problem: str) -> None:
    """Neither its name, nor that of a contract of its streams."""
    with pytest.raises(SpecError) as refused:
        check(_other(**changed))

    assert (subject, problem) in [(one.subject, one.problem) for one in refused.value.problems]


def test_a_topic_of_the_platform_is_nobody_elses() -> None:
    """A stream of a use case that reads it would have to be routed, as the platform's is not."""
    with pytest.raises(SpecError) as refused:
        check(_other(streams=(replace(FLIGHTS.streams[0], topic="prediction-log"), *FLIGHTS.streams[1:])))

    assert ("route", "shares topic 'prediction-log'") in [(one.field, one.problem) for one in refused.value.problems]


def test_use_cases_that_share_anything_have_the_days_of_all() -> None:
    """A shared view gives both the union of their days; without one each keeps its own."""
    later = _other(first_day=date(2012, 1, 1), last_day=None)
    alone = replace(later, sources=(), streams=(), models=(replace(later.models[0], views=(), slices=()),))
    apart = Project(use_cases=(FLIGHTS, replace(alone, models=())))

    assert check(FLIGHTS, later).span_of(FLIGHTS) == Span(first=date(2012, 1, 1), last=None)
    assert apart.span_of(FLIGHTS) == Span(first=FLIGHTS.first_day, last=FLIGHTS.last_day)


def test_two_different_things_with_one_name_are_refused() -> None:
    """A view that differs in its owner alone, a contract in its version: each names both use cases."""
    view = replace(DELAY.views[0], owner="somebody@else.example")
    source = replace(FLIGHTS.sources[0], contract=replace(FLIGHTS.sources[0].contract, version="2.0.0"))
    other = _other(sources=(source, *FLIGHTS.sources[1:]), models=(replace(DELAY, name="other_delay", views=(view, *DELAY.views[1:])),))

    with pytest.raises(SpecError) as refused:
        check(FLIGHTS, other)

    found = {one.subject: one.problem for one in refused.value.problems}
    assert set(found) == {"Contract 'flight_schedule'", "Origin 'airline_ops/public.flight_schedule'", "View 'origin_departures'"}
    assert all("(use case 'nyc_flights')" in problem for problem in found.values())


def test_two_models_never_have_one_name() -> None:
    """Not even equal ones: tables, ledger and packages carry the name of the model."""
    with pytest.raises(SpecError) as refused:
        check(FLIGHTS, _other(models=(DELAY,)))

    assert [one.subject for one in refused.value.problems] == ["Model 'flight_delay'"]


@pytest.fixture
def package(tmp_path: Path) -> Iterator[Path]:
    """A package of use cases of its own, which is forgotten after the test."""
    folder = tmp_path / "own" / "use_cases"
    folder.mkdir(parents=True)
    (tmp_path / "own" / "__init__.py").touch()
    (folder / "__init__.py").touch()
    sys.path.insert(0, str(tmp_path))
    try:
        yield folder
    finally:
        sys.path.remove(str(tmp_path))
        for name in [name for name in sys.modules if name.split(".")[0] == "own"]:
            del sys.modules[name]


def _write(package: Path, name: str, text: str) -> None:
    (package / name).mkdir()
    (package / name / "__init__.py").write_text(text)


def _settings(**changed: object) -> CodeSettings:
    return read_code_settings().model_copy(update={"use_cases_package": "own.use_cases", **changed})


GOOD = """
from dataclasses import replace
from pipeline_assets.use_cases.nyc_flights import use_case as flights
use_case = replace(flights, name="{name}", models=(replace(flights.models[0], name="{name}"),))
"""


def test_a_use_case_is_added_by_its_folder(package: Path) -> None:
    """Every folder of the package is a use case, in the order of names; the settings may choose among them."""
    for name in ("second", "first"):
        _write(package, name, GOOD.format(name=name))

    assert [one.name for one in read_project(_settings()).use_cases] == ["first", "second"]
    assert [one.name for one in read_project(_settings(use_cases=("second",))).use_cases] == ["second"]


def test_every_broken_folder_is_reported_with_its_file(package: Path) -> None:
    """One that raises, one without a use case and one of another name are three problems beside that of a good folder."""
    _write(package, "raises", "from datetime import timedelta\nWINDOW = timedelta(hours='one')\n")
    _write(package, "empty", "")
    _write(package, "misnamed", GOOD.format(name="other"))
    _write(package, "wrong", GOOD.format(name="wrong") + "\nuse_case = replace(use_case, last_day=use_case.first_day.replace(year=2000))\n")

    with pytest.raises(SpecError) as refused:
        read_project(_settings())

    found = {one.use_case: (one.file, one.field) for one in refused.value.problems}
    assert found == {
        "raises": ("own/use_cases/raises/__init__.py, line 2", ""),
        "empty": ("own/use_cases/empty/__init__.py", "use_case"),
        "misnamed": ("own/use_cases/misnamed/__init__.py", "name"),
        "wrong": ("own/use_cases/wrong/__init__.py", "last_day"),
    }


def test_a_problem_names_the_file_that_declares_the_object(package: Path) -> None:
    """An object is found in the module that assigns it, not in those that import it."""
    _write(package, "split", "from own.use_cases.split.declared import use_case\n")
    changed = "\nview = replace(flights.models[0].views[0], freshness=flights.models[0].split.train * 0)"
    changed += "\nmodel = replace(flights.models[0], name='split', views=(view,))\nuse_case = replace(use_case, models=(model,))\n"
    (package / "split" / "declared.py").write_text(GOOD.format(name="split") + changed)
    (package / "split" / "other.py").write_text("from own.use_cases.split.declared import view\n")

    with pytest.raises(SpecError) as refused:
        read_project(_settings())

    assert [(one.file, one.field) for one in refused.value.problems] == [("own/use_cases/split/declared.py", "freshness")]
    assert timedelta(0) == DELAY.label.horizon
