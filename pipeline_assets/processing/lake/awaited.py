"""What is awaited of a source, as its contract and its use case declare it."""

from dataclasses import dataclass
from datetime import date

from pipeline_assets.spec.contracts import Contract


@dataclass(frozen=True, kw_only=True)
class Awaited:
    """A source whose rows are awaited: its contract, and the use case with the last of its days (UTC; None: open end)."""

    contract: Contract
    use_case: str
    last_day: date | None
