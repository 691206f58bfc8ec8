"""The templates of the page: how numbers, times and small charts are written."""

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

HERE = Path(__file__).parent
ASSETS = {"page.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8", "icon.svg": "image/svg+xml"}
SPARK_WIDTH, SPARK_HEIGHT = 240, 40
MINUTE, HOUR, DAY = 60, 3600, 86_400


def rendered(template: str, **values: object) -> str:
    """A template with values, each escaped; a value that a template misses is an error."""
    return _environment().get_template(template).render(**values)


@lru_cache(maxsize=8)
def address_of_asset(name: str, prefix: str = "") -> str:
    """The path of a script or style, with a mark of its content."""
    return f"{prefix}/assets/{name}?v={sha256((HERE / 'assets' / name).read_bytes()).hexdigest()[:12]}"


@lru_cache(maxsize=1)
def _environment() -> Environment:
    made = Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    made.lstrip_blocks = True
    made.filters.update(count=count, milliseconds=milliseconds, age=age, clock=clock, score=score, spark=spark, shown=shown, part=part)
    made.globals.update(asset=address_of_asset)
    return made


def count(number: float) -> str:
    """A count with its thousands apart, of millions on in three digits."""
    for size, unit in ((1e9, "G"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:,.0f}"


def milliseconds(number: float | None) -> str:
    """A latency; a dash where nothing was measured."""
    if number is None:
        return "–"
    return f"{number:.1f} ms" if number < 100 else f"{number:,.0f} ms"  # noqa: PLR2004 - tenths are noise from here on


def age(seconds: float | None) -> str:
    """A length of time in its largest fitting unit."""
    if seconds is None:
        return "never"
    for size, unit in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else "now"


def clock(at: datetime) -> str:
    """A moment in UTC, to the second."""
    return f"{at:%Y-%m-%d %H:%M:%S}"


def score(value: float | str) -> str:
    """A score in four digits; a class as it is."""
    return value if isinstance(value, str) else f"{value:.4f}"


def part(name: str) -> str:
    """A name as one part of a path, whatever is in it."""
    return quote(name, safe="")


def shown(value: object) -> str:
    """A value of a feature."""
    if value is None:
        return "null"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def spark(numbers: Sequence[float]) -> str:
    """The points of a line that fills the box of a small chart, for `points` of an SVG polyline."""
    if not numbers:
        return ""
    top, step = max(*numbers, 1e-9), SPARK_WIDTH / max(1, len(numbers) - 1)
    return " ".join(f"{place * step:.1f},{(SPARK_HEIGHT - 2) * (1 - number / top) + 1:.1f}" for place, number in enumerate(numbers))
