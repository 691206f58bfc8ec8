"""What is wrong with one setting, one declaration, or one table that is to be followed: the facts that an error lists."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MalformedSetting:
    """A value of a setting that cannot be used; `shown` is the value, None where it is or may be secret."""

    name: str
    problem: str
    expected: str
    shown: str | None

    def __str__(self) -> str:
        value = repr(self.shown) if self.shown is not None else "the value is not shown"
        return f"{self.name} {self.problem} ({value}); expected: {self.expected}."


@dataclass(frozen=True, kw_only=True)
class DeclarationProblem:
    """What is wrong with one field of one declared object, where it is declared, and what would be right."""

    use_case: str
    file: str
    subject: str
    field: str
    problem: str
    expected: str

    def __str__(self) -> str:
        what = f"{self.field} {self.problem}".strip()
        return f"{self.subject} (use case '{self.use_case}'): {what}. Expected: {self.expected}. Fix {self.file}."


@dataclass(frozen=True, kw_only=True)
class Obstacle:
    """What keeps a table (or, where `table` is None, a whole database) from being followed, and what to do: SQL where a statement helps."""

    database: str
    table: str | None
    problem: str
    expected: str
    remedy: str

    def __str__(self) -> str:
        where = f"Database '{self.database}'" if self.table is None else f"Table {self.table} of database '{self.database}'"
        return f"{where} {self.problem}. Expected: {self.expected}. {self.remedy}"
