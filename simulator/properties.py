"""Files of client properties, by which the programs of all worlds log in to brokers."""

from pathlib import Path


def read_properties(path: str) -> dict[str, str]:
    """The properties of a file as librdkafka and its tools have them: `name=value`, one a line; lines that begin with `#` say nothing."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
