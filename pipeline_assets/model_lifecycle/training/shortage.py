"""What to do where a block of a training set has too little to learn or judge by: the advice follows from what is missing."""

from datetime import datetime, timedelta

from pipeline_assets.core import names
from pipeline_assets.core.errors import TooLittleToLearn
from pipeline_assets.model_lifecycle.training.blocks import Block
from pipeline_assets.spec.models import Label, Model


def too_little(
    model: Model, as_of: datetime, block: Block, *, decisions: int, lacking: str | None, delay: timedelta | None
) -> TooLittleToLearn | None:
    """The error of a block, or None if it suffices.

    `decisions` of the block have vectors, `lacking` is what its labels lack by the rules of the task, `delay` how long after their
    decisions the labels of all blocks were known (the median; None where none was).
    """
    if decisions and block.rows and lacking is None:
        return None
    found, advice = _reason(model.label, decisions, block.rows, lacking, delay)
    span = f"{block.start.isoformat()} to {block.end.isoformat()}"
    return TooLittleToLearn(model=model.name, as_of=as_of.isoformat(), block=block.name, span=span, found=found, advice=advice)


def _reason(label: Label, decisions: int, rows: int, lacking: str | None, delay: timedelta | None) -> tuple[str, str]:
    if not decisions:
        return "no vectors", "Materialize the vectors of those days, or choose an `as_of` whose blocks lie in days that have them."
    if rows:
        return str(lacking), "Lengthen the block in the model's split, or choose another `as_of`."
    return f"{decisions} decisions, none with a label known by then", _advice_without_labels(label, delay)


def _advice_without_labels(label: Label, delay: timedelta | None) -> str:
    table = "/".join(names.cleaned(label.table))
    if delay is None:
        keys = ", ".join(label.keys)
        return f"Materialize {table} up to `as_of`, and check that {keys} there name the same things as the keys of the observations."
    usual = timedelta(seconds=round(delay.total_seconds()))
    horizon = f"its horizon is {label.horizon}" if label.horizon else "it declares no horizon"
    return (
        f"Labels are known {usual} after their decisions (median), and {horizon}. Declare a horizon of the label that is at least as long, "
        f"so that the blocks end where labels have matured, or materialize {table} up to `as_of`."
    )
