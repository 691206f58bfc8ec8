"""Damaged objects of the lake: where each belongs, and what makes it anew."""

import re
from dataclasses import dataclass

from pipeline_assets.core import names
from pipeline_assets.core.errors import PipelineError

DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
STAGED = names.staged("")[0]
GONE = "is not there"
# Files of these are made anew by materializing the asset of the table's own name.
DERIVED = (names.CLEANED, names.FEATURES, names.FEATURE_STORE)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Whose object a path is: its table as `<namespace>.<name>`, and the day that its name says (None: none)."""

    table: str
    day: str | None
    is_data: bool

    @property
    def remedy(self) -> str:
        """What to do where it is damaged."""
        namespace, _, name = self.table.partition(".")
        day = "" if self.day is None else f" of {self.day}"
        if namespace == names.LANDED:
            return "Restore it from a copy of the store; `pipeline audit sources` says which records are missing."
        if not self.is_data or namespace == names.TYPED:
            return f"Run `pipeline lake rebuild {self.table}`, then materialize {namespace}/{name}: it is made of what is before it."
        if namespace in DERIVED:
            return f"Materialize {namespace}/{name}{day} again: it is made anew from what is before it."
        if namespace == names.LAKE:
            return f"Materialize staged/{name} and lake/{name}{day} again: they are made anew from the source."
        if namespace == STAGED:
            how = "" if self.day is not None else ", with `from_the_start: true` where its load is incremental"
            again = f"Materialize staged/{name}{day} again{how}, then lake/{name}: the source is read anew."
            return f"{again} Versions that it no longer has are gone then, unless the object is restored from a copy of the store."
        return "Restore the object from a copy of the store."


def place_of(path: str) -> Place:
    """Whose object a path (`s3://<bucket>/<key>`, or a key) is."""
    parts = re.sub(r"^s3://[^/]+/", "", path).split("/")
    folders = parts[1:] if parts[0] == names.LAKE else parts
    day = next(iter(DAY.findall("/".join(folders[1:-1]))), None)
    return Place(table=".".join(folders[:2]), day=day, is_data=folders[2:3] != ["metadata"])


class ObjectDamaged(PipelineError):
    """An object of the lake is not what was written: other bytes, or none. Nothing of it is used.

    `table` and `day` say whose it is, as its path has it; `is_gone` that there is no such object.
    """

    def __init__(self, path: str, problem: str = GONE) -> None:
        self.path, self.problem, place = path, problem, place_of(path)
        self.table, self.day, self.is_gone = place.table, place.day, problem == GONE
        day = "" if place.day is None else f" of {place.day}"
        super().__init__(f"{place.table}{day} is damaged: {path} {problem}. Nothing of it is used. {place.remedy}")
