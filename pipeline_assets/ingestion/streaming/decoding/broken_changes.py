"""Changes of a table that break the contract of their log, as far as they can be read.

Which row a change is about, what it did, and when, stands apart from the values that it gave the row. So a change with a value that cannot
be read is known to have made its row another one than it was before, and its place in a snapshot counts as that of any record.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline_assets.ingestion.sources.contracts import BrokenRow, Checked
from pipeline_assets.ingestion.sources.json_rows import check_objects
from pipeline_assets.ingestion.streaming.staged.change_log import BROKEN, META_FIELDS
from pipeline_assets.spec.contracts import Contract

ENVELOPE = frozenset(field.name for field in META_FIELDS)


def partly_read(contract: Contract, changes: Mapping[int, Mapping[str, Any]], broken: Sequence[BrokenRow]) -> Checked:
    """The broken ones among some changes, without the values that are at fault; `_broken` says by field what is wrong with them.

    changes: the values of each by its place, which is the position of its broken row. A change is left out where its envelope is at fault,
    or where a field that is at fault must have a value.
    """
    faults: dict[int, dict[str, str]] = {row.position: {} for row in broken if row.position in changes}
    found = broken
    while True:
        for row in found:
            known = faults.get(row.position, {})
            if row.field in ENVELOPE or row.field in known:
                faults.pop(row.position, None)
            else:
                known[row.field] = row.reason
        places = sorted(faults)
        readable = [{**changes[place], **dict.fromkeys(faults[place]), BROKEN: json.dumps(faults[place])} for place in places]
        checked = check_objects(contract, readable, [b""] * len(readable)).at(np.array(places, dtype=np.int64))
        if not checked.broken:
            return checked
        found = checked.broken
