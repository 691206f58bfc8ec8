"""What the online store keeps for a view: which values of a row, which tiles of which length, and which newest rows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from pipeline_assets.core import names
from pipeline_assets.core.aggregates import AGGREGATES, Part
from pipeline_assets.core.columns import ColumnKind
from pipeline_assets.processing.features.hops import hop_of
from pipeline_assets.spec.features import FeatureView, Latest, Learned, Windowed

MICROSECOND = timedelta(microseconds=1)
# How many rows of a key stand apart from its tiles at most, however many came in the time that is kept apart.
RECENT_ROWS = 128
KeptPart = Literal["count", "sum", "squares", "greatest", "least"]
CellType = Literal["<i8", "<f8", "text"]
OutputKind = Literal["int", "float", "age", "text"]
# Of a sum in the tiles of a key.
SHAPE = np.dtype([("lowest", "<i2"), ("digits", "u1")])
TIMES = (("event_at", "<i8"), ("known_at", "<i8"), ("superseded_at", "<i8"), ("row_high", "<i8"), ("row_low", "<i8"))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A value that is kept of each row: a column as one kind of feature reads it.

    feature: one of those that read it so. dtype: numbers, codes and moments (microseconds) are eight bytes; learned categories are text.
    is_moment: the feature is the seconds from the value to the decision.
    """

    name: str
    feature: Windowed | Latest
    dtype: CellType
    is_moment: bool


class Measure(NamedTuple):
    """What a tile keeps of its rows; of the rows that have the cell's value, or of all rows (None)."""

    cell: str | None
    part: KeptPart


@dataclass(frozen=True, kw_only=True, eq=False)
class TileSet:
    """The tiles of one length: `hop` and the longest window that is made of them, in microseconds, and what each tile keeps."""

    hop: int
    longest: int
    measures: tuple[Measure, ...]

    @cached_property
    def summed(self) -> tuple[Measure, ...]:
        """The measures that are sums."""
        return tuple(measure for measure in self.measures if measure.part in ("sum", "squares"))

    def oldest(self, at: "np.ndarray") -> "np.ndarray":
        """The first tile that a window asked at `at` or later can reach."""
        return (at - self.longest) // self.hop


@dataclass(frozen=True, kw_only=True)
class Output:
    """One feature of a view: its column, what it is made of, and what it is. An `age` is a number too: the seconds from an instant on."""

    name: str
    kind: OutputKind
    feature: Windowed | Latest
    window: int = 0
    hop: int = 0


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The shape of a view's state.

    slots: of which rows the newest is kept: of all (None), and of those that have the value of a cell.
    """

    view: FeatureView
    cells: tuple[Cell, ...]
    tile_sets: tuple[TileSet, ...]
    slots: tuple[str | None, ...]

    @cached_property
    def dtype(self) -> np.dtype:
        """A row without its texts: times, identity, then value and presence of each cell."""
        fields = [(f"value:{cell.name}", cell.dtype) for cell in self.cells if cell.dtype != "text"]
        present = [(f"has:{cell.name}", "?") for cell in self.cells if cell.dtype != "text"]
        return np.dtype([*TIMES, *fields, *present])

    @cached_property
    def head(self) -> np.dtype:
        """How the bytes of a state begin: see `codec`."""
        of_tiles = [
            field for at, one in enumerate(self.tile_sets) for field in ((f"tiles{at}", "<u4"), (f"shape{at}", SHAPE, (len(one.summed),)))
        ]
        return np.dtype([("version", "<u2"), ("base_at", "<i8"), ("recent", "<u4"), ("slots", "u1", (len(self.slots),)), *of_tiles])

    @cached_property
    def texts(self) -> tuple[Cell, ...]:
        """The cells that are text."""
        return tuple(cell for cell in self.cells if cell.dtype == "text")

    @cached_property
    def outputs(self) -> tuple[Output, ...]:
        """The features of the view in their order, one for each window."""
        return tuple(output for feature in self.view.features for output in _outputs(self, feature))

    @cached_property
    def finished(self) -> np.dtype:
        """The fixed part of finished values: see `finished`."""
        return np.dtype([("values", "<i8", (len(self.outputs),)), ("nulls", "u1", (-(-len(self.outputs) // 8),))])


def layout_of(view: FeatureView, kinds: Mapping[str, ColumnKind]) -> Layout:
    """The shape of a view's state; kinds: those of the columns of its cleaned table."""
    cells = {cell_name(one): _cell(one, kinds) for one in view.features if one.column}
    slots = dict.fromkeys(_slot(one) for one in view.features if isinstance(one, Latest) or "newest" in AGGREGATES[one.aggregate].parts)
    return Layout(view=view, cells=tuple(cells.values()), tile_sets=_tile_sets(view), slots=tuple(slots))


def cell_name(feature: Windowed | Latest) -> str:
    """Which cell a feature reads; features that read a column alike share one."""
    if isinstance(feature, Latest):
        kind = "learned" if isinstance(feature.values, Learned) else "|".join(feature.values)
        return f"latest:{feature.column}:{kind}"
    reading = feature.aggregate if feature.aggregate in ("rate", "count") else "number"
    return f"{reading}:{feature.column}"


def measure_of(feature: Windowed, part: Part) -> Measure:
    """What a tile keeps for a part of a feature."""
    cell = None if feature.column is None else cell_name(feature)
    extreme: KeptPart = "greatest" if AGGREGATES[feature.aggregate].finish == "greatest" else "least"
    kept: dict[Part, KeptPart] = {"count": "count", "sum": "sum", "squares": "squares", "extreme": extreme}
    return Measure(cell=cell, part=kept[part])


def microseconds(span: timedelta) -> int:
    """A length of time as the kernel counts it."""
    return span // MICROSECOND


def _outputs(layout: Layout, feature: Windowed | Latest) -> Iterator[Output]:
    view = layout.view.name
    if isinstance(feature, Latest):
        yield Output(name=names.feature(view, feature.name), kind=_latest_kind(layout, feature), feature=feature)
        return
    aggregate = AGGREGATES[feature.aggregate]
    kind: OutputKind = "age" if aggregate.finish == "age" else "int" if aggregate.dtype == "int64" else "float"
    for window in feature.windows:
        hop = microseconds(hop_of(window, feature.hop))
        yield Output(name=names.feature(view, feature.name, window), kind=kind, feature=feature, window=microseconds(window), hop=hop)


def _latest_kind(layout: Layout, feature: Latest) -> OutputKind:
    cell = next(cell for cell in layout.cells if cell.name == cell_name(feature))
    return "text" if cell.dtype == "text" else "int" if feature.values else "age" if cell.is_moment else "float"


def _slot(feature: Windowed | Latest) -> str | None:
    return None if isinstance(feature, Latest) or feature.column is None else cell_name(feature)


def _cell(feature: Windowed | Latest, kinds: Mapping[str, ColumnKind]) -> Cell:
    is_moment = isinstance(feature, Latest) and kinds[feature.column] in ("timestamp", "date")
    return Cell(name=cell_name(feature), feature=feature, dtype=_dtype(feature, kinds), is_moment=is_moment)


def _dtype(feature: Windowed | Latest, kinds: Mapping[str, ColumnKind]) -> CellType:
    kind = kinds[str(feature.column)]
    if isinstance(feature, Latest) and isinstance(feature.values, Learned):
        return "text"
    is_number = kind == "number" and not (isinstance(feature, Latest) and feature.values)
    return "<f8" if is_number else "<i8"


def _tile_sets(view: FeatureView) -> tuple[TileSet, ...]:
    rows = Measure(cell=None, part="count")
    found: dict[int, tuple[int, dict[Measure, None]]] = {}
    for feature in view.features:
        if isinstance(feature, Latest) or "newest" in AGGREGATES[feature.aggregate].parts:
            continue
        for window in feature.windows:
            hop = microseconds(hop_of(window, feature.hop))
            longest, measures = found.get(hop, (0, {rows: None}))
            measures |= dict.fromkeys(measure_of(feature, part) for part in AGGREGATES[feature.aggregate].parts)
            found[hop] = max(longest, microseconds(window)), measures
    return tuple(TileSet(hop=hop, longest=found[hop][0], measures=tuple(found[hop][1])) for hop in sorted(found))
