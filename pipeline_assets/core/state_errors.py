"""Errors of the files in which the platform keeps its state on a machine."""

from pathlib import Path

from pipeline_assets.core.errors import UserInputError


class StateFileDamaged(UserInputError):
    """A file of the local stack is missing or cannot be read, and what it said cannot be made up."""

    def __init__(self, path: Path, problem: str, remedy: str) -> None:
        self.path, self.problem, self.remedy = path, problem, remedy
        super().__init__(f"{path} {problem}. {remedy}.")
