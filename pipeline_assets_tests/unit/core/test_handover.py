"""Hand-overs within a run: the id that the run itself recorded, or the run that it repeats; never that of another one."""

from collections.abc import Iterator, Mapping

import dagster as dg
import pytest

from pipeline_assets.core.handover import needed

MADE, USED = dg.AssetKey(["candidates", "m"]), dg.AssetKey(["champions", "m"])


class Given(dg.Config):
    """An id for one asset, and whether the other one fails."""

    value: str | None = None
    fails: bool = False


@dg.asset(key=MADE)
def made(config: Given) -> dg.MaterializeResult[None]:
    """Records the id that it is given."""
    return dg.MaterializeResult(metadata={"made_id": config.value or "unnamed"})


@dg.asset(key=USED, deps=[MADE])
def used(context: dg.AssetExecutionContext, config: Given) -> dg.MaterializeResult[None]:
    """Records the id that was handed over."""
    found = needed(context, MADE, "made_id", given=config.value, option="made_id")
    if config.fails:
        raise dg.Failure(description=f"failed with {found}")
    return dg.MaterializeResult(metadata={"used_id": found})


def hand_over() -> dg.JobDefinition:
    """Both assets in one job."""
    job = dg.define_asset_job("hand_over", executor_def=dg.in_process_executor)
    return dg.Definitions(assets=[made, used], jobs=[job]).resolve_job_def("hand_over")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """The event log of several runs."""
    with dg.DagsterInstance.ephemeral() as log:
        yield log


def _run(
    instance: dg.DagsterInstance, config: Mapping[str, Mapping[str, object]], *chosen: dg.AssetKey, repeats: str | None = None
) -> dg.JobExecutionResult:
    """Materializes the chosen assets (default: both) with their configs by the first part of their keys, or what of a run has failed."""
    ops = {"__".join(key.path): {"config": dict(config[key.path[0]])} for key in chosen or (MADE, USED) if key.path[0] in config}
    return dg.execute_job(
        dg.reconstructable(hand_over),
        instance=instance,
        run_config={"ops": ops},
        asset_selection=None if repeats else list(chosen or (MADE, USED)),
        reexecution_options=dg.ReexecutionOptions.from_failure(repeats, instance) if repeats else None,
    )


def _used(result: dg.JobExecutionResult) -> object:
    (event,) = result.asset_materializations_for_node("champions__m")
    return event.metadata["used_id"].value


def test_a_run_uses_what_it_made_itself(instance: dg.DagsterInstance) -> None:
    """Whatever others made before or in between, in either order."""
    _run(instance, {"candidates": {"value": "search"}}, MADE)
    first = _run(instance, {"candidates": {"value": "own"}})
    _run(instance, {"candidates": {"value": "reproduction"}}, MADE)
    second = _run(instance, {"candidates": {"value": "next"}})

    assert (_used(first), _used(second)) == ("own", "next")


def test_what_another_run_made_is_never_used_unless_it_is_named(instance: dg.DagsterInstance) -> None:
    """A step alone says what it needs, and how to give it; the newest of others does not count."""
    _run(instance, {"candidates": {"value": "search"}}, MADE)

    alone = _run(instance, {}, USED)
    named = _run(instance, {"champions": {"value": "search"}}, USED)

    assert not alone.success
    failure = alone.failure_data_for_node("champions__m")
    assert "champions/m does not know which candidates/m to use" in str(failure)
    assert "give `made_id` in the config of champions/m" in str(failure)
    assert _used(named) == "search"


def test_a_retry_uses_what_the_failed_run_had_made(instance: dg.DagsterInstance) -> None:
    """Also the retry of a retry, and although another run made something in between."""
    failed = _run(instance, {"candidates": {"value": "own"}, "champions": {"fails": True}})
    _run(instance, {"candidates": {"value": "search"}}, MADE)

    again = _run(instance, {"champions": {"fails": True}}, USED, repeats=failed.run_id)
    third = _run(instance, {}, USED, repeats=again.run_id)

    assert not failed.success
    assert not again.success
    assert _used(third) == "own"


def test_what_is_named_wins_over_what_the_run_made(instance: dg.DagsterInstance) -> None:
    """A person who names an id means it."""
    result = _run(instance, {"candidates": {"value": "own"}, "champions": {"value": "another"}})

    assert _used(result) == "another"
