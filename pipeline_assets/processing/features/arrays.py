"""Features of some rows as arrays: the same values as a table, which for a few rows costs many times what its values do."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from pipeline_assets.processing.features.catalogue import FeatureColumn
from pipeline_assets.processing.features.columns import Bools, Ints, present_in

Kind = Literal["int", "float", "text"]
KIND_OF: Mapping[str, Kind] = {"int64": "int", "float64": "float", "double": "float", "string": "text"}


@dataclass(frozen=True, kw_only=True)
class FeatureArrays:
    """Features by place in `names`, each with its kind.

    bits: (features, rows), integers or the bits of floats; 0 where there is no value, so that equal features are equal to the byte.
    present: (features, rows), which have a value. texts: (rows,) of each feature that is text, by its place; None where there is none.
    """

    names: tuple[str, ...]
    kinds: tuple[Kind, ...]
    bits: Ints
    present: Bools
    texts: Mapping[int, np.ndarray]

    def __len__(self) -> int:
        return int(self.bits.shape[1])

    @classmethod
    def of_table(cls, table: pa.Table) -> "FeatureArrays":
        """The columns of a table of int64, float64 and string."""
        kinds, shape = tuple(KIND_OF[str(one.type)] for one in table.schema), (table.num_columns, table.num_rows)
        bits, present, texts = np.zeros(shape, np.int64), np.zeros(shape, np.bool_), dict[int, np.ndarray]()
        for place, (column, kind) in enumerate(zip(table.columns, kinds, strict=True)):
            values = column.combine_chunks()
            if kind == "text":
                texts[place] = np.array(values.to_pylist(), object)
                continue
            present[place] = present_in(values)
            bits[place] = values.fill_null(0).to_numpy(zero_copy_only=False).view(np.int64)
        return cls(names=tuple(table.column_names), kinds=kinds, bits=bits, present=present, texts=texts)

    @property
    def numbers(self) -> np.ndarray:
        """(features, rows) as 64-bit floats, NaN where there is no value, and for text."""
        is_float = np.array([kind == "float" for kind in self.kinds])[:, None]
        numbers: np.ndarray = np.where(self.present, np.where(is_float, self.bits.view(np.float64), self.bits), np.nan)
        return numbers

    def table(self) -> pa.Table:
        """The same in Arrow: int64, float64 and string, null where there is no value. The columns share their memory."""
        count, size = len(self), self.bits.size
        present = np.packbits(np.ascontiguousarray(self.present).reshape(-1), bitorder="little")
        buffers = [pa.py_buffer(present), pa.py_buffer(np.ascontiguousarray(self.bits))]
        numbers = {kind: pa.Array.from_buffers(kind, size, buffers) for kind in (pa.int64(), pa.float64())}
        of_kind = {"int": numbers[pa.int64()], "float": numbers[pa.float64()]}
        columns = [
            pa.array(self.texts[place], pa.string()) if kind == "text" else of_kind[kind].slice(place * count, count)
            for place, kind in enumerate(self.kinds)
        ]
        return pa.Table.from_arrays(columns, names=list(self.names))

    def rows(self) -> list[dict[str, Any]]:
        """Each row by the names of its features."""
        integers, floats, present = self.bits.T.tolist(), self.bits.view(np.float64).T.tolist(), self.present.T.tolist()
        is_float = [kind == "float" for kind in self.kinds]
        found: list[dict[str, Any]] = [
            {
                name: (number if one else whole) if has else None
                for name, one, whole, number, has in zip(self.names, is_float, *row, strict=True)
            }
            for row in zip(integers, floats, present, strict=True)
        ]
        for place, texts in self.texts.items():
            for row, text in zip(found, texts, strict=True):
                row[self.names[place]] = text
        return found

    def part(self, first: int, rows: int) -> "FeatureArrays":
        """Some rows that stand side by side."""
        own = slice(first, first + rows)
        return FeatureArrays(
            names=self.names,
            kinds=self.kinds,
            bits=self.bits[:, own],
            present=self.present[:, own],
            texts={place: texts[own] for place, texts in self.texts.items()},
        )


def side_by_side(parts: Iterable[FeatureArrays]) -> FeatureArrays:
    """The features of several parts, of the same rows."""
    own, first, texts = tuple(parts), 0, dict[int, np.ndarray]()
    for part in own:
        texts |= {first + place: found for place, found in part.texts.items()}
        first += len(part.names)
    return FeatureArrays(
        names=tuple(name for part in own for name in part.names),
        kinds=tuple(kind for part in own for kind in part.kinds),
        bits=np.concatenate([part.bits for part in own]),
        present=np.concatenate([part.present for part in own]),
        texts=texts,
    )


def end_to_end(parts: Sequence[FeatureArrays]) -> FeatureArrays:
    """The rows of several parts of the same features, one part after the other; shares no memory with them."""
    first = parts[0]
    return FeatureArrays(
        names=first.names,
        kinds=first.kinds,
        bits=np.concatenate([part.bits for part in parts], axis=1),
        present=np.concatenate([part.present for part in parts], axis=1),
        texts={place: np.concatenate([part.texts[place] for part in parts]) for place in first.texts},
    )


class Defaults:
    """The declared defaults of some features, in their order: what each is where it would be null, as `with_defaults` has it."""

    def __init__(self, columns: Sequence[FeatureColumn]) -> None:
        self._texts = {place: one.default for place, one in enumerate(columns) if one.dtype == "string" and one.default is not None}
        declared = {place: one for place, one in enumerate(columns) if one.dtype != "string" and one.default is not None}
        self._places = np.array(list(declared), np.int64)
        self._bits = np.array([_bits(one) for one in declared.values()], np.int64)[:, None]

    def fill(self, features: FeatureArrays) -> FeatureArrays:
        """The features, whose first are those of the columns, with the defaults in place."""
        if len(self._places):
            own = self._places
            features.bits[own] = np.where(features.present[own], features.bits[own], self._bits)
            features.present[own] = True
        for place, default in self._texts.items():
            texts = features.texts[place]
            texts[[text is None for text in texts]] = default
        return features


def _bits(column: FeatureColumn) -> int:
    default = pa.scalar(column.default).cast(pa.type_for_alias(column.dtype)).as_py()
    return int(np.array(default, column.dtype).view(np.int64))
