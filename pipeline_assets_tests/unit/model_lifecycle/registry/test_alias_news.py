"""When the sensor of aliases evaluates its check: where what the check said last is not so any more, whoever said it."""

import dagster as dg
import pytest

from pipeline_assets.core import names
from pipeline_assets.core.resources import key
from pipeline_assets.model_lifecycle.registry.aliases import AliasDrift, in_words
from pipeline_assets.model_lifecycle.registry.sensors import ALIASES_MATCH, is_news
from pipeline_assets_tests.model_rows import small_model

MODEL = small_model()
CHAMPION = key(names.champion(MODEL.name))
ONE, TWO = (AliasDrift(alias="champion", in_mlflow=version, in_ledger=3) for version in (1, 2))


def said(instance: dg.DagsterInstance, *found: AliasDrift, before: tuple[AliasDrift, ...] = ()) -> None:
    """An evaluation of the check that says this."""
    sentence = in_words(MODEL, found, before)
    instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(asset_key=CHAMPION, check_name=ALIASES_MATCH, passed=not found, description=sentence)
    )


@pytest.mark.parametrize(
    ("last", "now", "is_one"),
    [
        (None, (), False), (None, (ONE,), True), ((), (), False), ((), (ONE,), True), ((ONE,), (ONE,), False), ((ONE,), (TWO,), True),
        ((ONE,), (), True),
    ],
)  # fmt: skip
def test_the_check_is_evaluated_where_it_says_otherwise(
    last: tuple[AliasDrift, ...] | None,
    now: tuple[AliasDrift, ...],
    is_one: bool,  # noqa: FBT001 - what is expected
) -> None:
    """Regression: it went by what it had seen itself, so a run's failed check stayed red where the change was undone within a minute."""
    with dg.DagsterInstance.ephemeral() as instance:
        if last is not None:
            said(instance, *last)

        assert is_news(instance, MODEL, now) is is_one


def test_a_passed_check_that_says_what_was_before_is_no_news() -> None:
    """A run says so where its decision set aliases that somebody had changed."""
    with dg.DagsterInstance.ephemeral() as instance:
        said(instance, before=(ONE,))

        assert not is_news(instance, MODEL, ())


def test_a_check_that_a_run_left_unevaluated_is_evaluated() -> None:
    """The run failed before; its place would stay empty for ever."""

    @dg.asset(key=CHAMPION, check_specs=[dg.AssetCheckSpec(ALIASES_MATCH, asset=CHAMPION)])
    # With a type parameter Dagster takes it for a tuple of outputs.
    def champion() -> dg.MaterializeResult:  # type: ignore[type-arg]
        raise dg.Failure

    with dg.DagsterInstance.ephemeral() as instance:
        said(instance)
        dg.materialize([champion], instance=instance, raise_on_error=False)

        assert is_news(instance, MODEL, ())
        said(instance)
        assert not is_news(instance, MODEL, ())
