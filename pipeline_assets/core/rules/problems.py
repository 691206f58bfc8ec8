"""What is wrong with a declaration, and the questions that most rules ask."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import timedelta
from math import inf, isfinite

NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
NAME_RULE = "a lower-case name of letters, digits and underscores, at most 48 long"
# As Dagster takes owners, and Kafka the names of topics.
OWNER = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,7}|team:\S(.*\S)?")
TOPIC = re.compile(r"(?!\.{1,2}$)[a-zA-Z0-9._-]{1,249}")
# Days of the calendar are added to and taken from such a time; nothing that is declared looks further than this.
LONGEST = timedelta(days=36_525)
POSITIVE = "a positive length of time, at most 100 years"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is wrong with one `field` of a declaration, and what would be right.

    declared: the object that stands in a module of the use case, by which the file is found. subject: what to call the object.
    """

    declared: object
    subject: str
    field: str
    problem: str
    expected: str


@dataclass(frozen=True, kw_only=True)
class Place:
    """A declared object, and what to call it or a part of it in problems."""

    declared: object
    subject: str

    def part(self, name: str) -> "Place":
        """A part of the object."""
        return Place(declared=self.declared, subject=f"{self.subject}: {name}")

    def problem(self, field: str, problem: str, expected: str) -> Problem:
        """One problem of the object."""
        return Problem(declared=self.declared, subject=self.subject, field=field, problem=problem, expected=expected)

    def one_of(self, field: str, value: object, allowed: Collection[str | None]) -> Iterator[Problem]:
        """A problem unless `value` is allowed."""
        if value not in allowed:
            yield self.problem(field, f"is {value!r}", f"one of {listed(allowed)}")

    def between(self, field: str, value: float, low: float, high: float) -> Iterator[Problem]:
        """A problem unless `value` is in the range, bounds included; NaN is in none."""
        if not low <= value <= high:
            yield self.problem(field, f"is {value}", f"a number from {low} to {high}")

    def owner(self, value: str) -> Iterator[Problem]:
        """A problem unless `value` names somebody whom Dagster knows how to show."""
        if not OWNER.fullmatch(value):
            yield self.problem("owner", f"is {value!r}", "an e-mail address, or a team as 'team:name'")

    def finite(self, field: str, value: float) -> Iterator[Problem]:
        """A problem unless `value` is a number that is not infinite."""
        if not isfinite(value):
            yield self.problem(field, f"is {value}", "a finite number")

    def at_least(self, field: str, value: float, least: float) -> Iterator[Problem]:
        """A problem unless `value` is a finite number of at least `least`."""
        if not least <= value < inf:
            yield self.problem(field, f"is {value}", f"a number of at least {least}")

    def positive(self, field: str, value: timedelta) -> Iterator[Problem]:
        """A problem unless `value` is longer than nothing, and no longer than a century."""
        if not timedelta(0) < value <= LONGEST:
            yield self.problem(field, f"is {value}", POSITIVE)

    def not_negative(self, field: str, value: timedelta) -> Iterator[Problem]:
        """A problem if `value` is less than nothing, or longer than a century."""
        if not timedelta(0) <= value <= LONGEST:
            yield self.problem(field, f"is {value}", "a length of time that is not negative, at most 100 years")

    def names(self, kind: str, names: Collection[str]) -> Iterator[Problem]:
        """A problem for each name that breaks the rule of names, or stands twice."""
        seen: set[str] = set()
        for name in names:
            place = Place(declared=self.declared, subject=f"{kind} '{name}'")
            if not NAME.fullmatch(name):
                yield place.problem("name", f"is {name!r}", NAME_RULE)
            if name in seen:
                yield place.problem("name", "is declared twice", "one of each name")
            seen.add(name)


def listed(values: Collection[str | None]) -> str:
    """Values in the order of the alphabet, for people."""
    return ", ".join(sorted(value for value in values if value is not None)) or "none"
