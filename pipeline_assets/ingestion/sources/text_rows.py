"""Rows that come as texts by field, as in CSV: read strictly, whole columns at once where a value is written as most are.

An empty text is null. Nothing is guessed: a text that is no number is no number, and a time without a zone names no instant.
"""

from collections.abc import Callable
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.ingestion.sources.contracts import Checked, check_columns
from pipeline_assets.ingestion.sources.text_columns import from_texts
from pipeline_assets.spec.contracts import Contract


def check_texts(contract: Contract, texts: pa.RecordBatch, original: Callable[[int], bytes], *, day: date | None = None) -> Checked:
    """Which rows keep their contract; `texts` has a column of strings for each field, and its rows stand at 0 and after.

    `original` gives the bytes of a row by its index. Faults as `check_columns` has them.
    """
    columns = {field.name: from_texts(field, _filled(texts.column(field.name))) for field in contract.fields}
    return check_columns(contract, columns, original, day=day)


def _filled(texts: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
