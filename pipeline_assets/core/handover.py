"""What one step of a run hands to the next, by id: a value that the run itself recorded, never the newest of a shared place.

So a training that runs beside another one, a reproduction or a search, is judged and packaged by nobody who did not name it.
"""

from collections.abc import Iterator

import dagster as dg

RECORDS_AT_ONCE = 1000


def handed_over(context: dg.AssetExecutionContext, asset_key: dg.AssetKey, field: str) -> str | None:
    """The metadata `field` of the materialization of an asset in this run, or else in the run that this one is a retry of, and so on.

    Of several materializations in a run the last one counts. None where none of these runs materialized the asset with that field.
    """
    for run_id in _tries(context):
        found = _last_value(context.instance, run_id, asset_key, field)
        if found is not None:
            return found
    return None


def needed(context: dg.AssetExecutionContext, asset_key: dg.AssetKey, field: str, *, given: str | None, option: str) -> str:
    """The id that a run was `given`, or that was handed over; a Failure that says how to give it where there is neither."""
    found = given if given is not None else handed_over(context, asset_key, field)
    if found is not None:
        return found
    upstream, own = asset_key.to_user_string(), context.asset_key.to_user_string()
    description = (
        f"{own} does not know which {upstream} to use: this run has not materialized one. "
        f"Materialize {upstream} in the same run, or give `{option}` in the config of {own}."
    )
    raise dg.Failure(description=description, allow_retries=False)


def _tries(context: dg.AssetExecutionContext) -> Iterator[str]:
    """This run, then the run that it repeats, back to the first."""
    run: dg.DagsterRun | None = context.run
    while run is not None:
        yield run.run_id
        run = context.instance.get_run_by_id(run.parent_run_id) if run.parent_run_id is not None else None


def _last_value(instance: dg.DagsterInstance, run_id: str, asset_key: dg.AssetKey, field: str) -> str | None:
    found, cursor, has_more = None, None, True
    while has_more:
        page = instance.get_records_for_run(run_id, cursor, dg.DagsterEventType.ASSET_MATERIALIZATION, RECORDS_AT_ONCE)
        made = [record.asset_materialization for record in page.records if record.asset_materialization is not None]
        for one in made:
            if one.asset_key == asset_key and field in one.metadata:
                found = str(one.metadata[field].value)
        cursor, has_more = page.cursor, page.has_more
    return found
