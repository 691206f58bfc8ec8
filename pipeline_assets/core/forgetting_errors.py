"""The errors of forgetting."""

from collections.abc import Mapping, Sequence

from pipeline_assets.core.errors import PipelineError, UserInputError


class KeyMalformed(UserInputError):
    """A key that no row of the entity can have."""

    def __init__(self, entity: str, keys: Mapping[str, str], given: Sequence[str], problem: str) -> None:
        self.entity, self.keys, self.given, self.problem = entity, dict(keys), tuple(given), problem
        expected = ", ".join(f"{name} ({kind})" for name, kind in keys.items())
        super().__init__(f"Entity '{entity}' has the key {expected}; {len(given)} values were given, and {problem}. Nothing was changed.")


class NotForgotten(PipelineError):
    """Rows of an entity are still there after all that was removed: something wrote them meanwhile."""

    def __init__(self, entity: str, left: Mapping[str, int]) -> None:
        self.entity, self.left = entity, dict(left)
        places = ", ".join(f"{place}: {rows:,}" for place, rows in left.items())
        super().__init__(
            f"The entity '{entity}' was removed, but for rows that were written meanwhile, or landed and are not typed yet ({places}). "
            "Wait until the runs that are under way have ended, have landed records typed, and run the same command again: it goes on."
        )
