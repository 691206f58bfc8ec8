"""Numbers in the type in which XGBoost computes: 32-bit floats, checked as such.

What is finite with 64 bits need not be with 32, and XGBoost would refuse the whole matrix without the name of the column.
"""

from typing import TYPE_CHECKING

from pipeline_assets.core.errors import ValueUnfit

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

# The greatest number that a 32-bit float holds.
GREATEST = 3.4028234663852886e38


def narrowed(column: "pa.ChunkedArray", table: str, name: str) -> "npt.NDArray[np.float32]":
    """The numbers of a column as the nearest 32-bit floats, NaN for null; below 1.2e-38 they lose digits, down to 0.

    Raises ValueUnfit, with the first such row, where a number is NaN or infinite, or becomes infinite.
    """
    import numpy as np
    import pyarrow as pa

    with np.errstate(over="ignore", under="ignore"):
        numbers: npt.NDArray[np.float32] = column.cast(pa.float64(), safe=False).to_numpy().astype(np.float32)
    is_unfit = ~np.isfinite(numbers)
    if np.count_nonzero(is_unfit) == column.null_count:
        return numbers
    row = int(np.argmax(is_unfit & column.is_valid().to_numpy()))
    value = column[row].as_py()
    problem = "values beyond 32-bit floats" if np.isfinite(float(value)) else "NaN or infinite values"
    raise ValueUnfit(table, name, problem, row=row, value=value, expected=f"a finite number up to {GREATEST:.6g}")
