"""The errors of access to the prediction service: what a person who runs it can mend, and why a token is not taken."""

from pathlib import Path

from pipeline_assets.core.errors import UserInputError
from pipeline_assets.core.foreign import shown


class KeyFileRefused(UserInputError):
    """The file of API keys, or that of the secret of sessions, cannot be used as it is; nothing was written."""

    def __init__(self, path: Path, problem: str, remedy: str) -> None:
        self.path, self.problem, self.remedy = path, problem, remedy
        super().__init__(f"File {path} {problem}. {remedy.rstrip('.')}.")


class KeyNameTaken(UserInputError):
    """A key is to be made with a name that another one has."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"There is a key with the name '{name}'. Rotate it (`pipeline serve-keys rotate {name}`), revoke it, or take another name."
        )


class KeyNameUnfit(UserInputError):
    """A key is to be made with a name that lists and logs cannot show in a line."""

    def __init__(self, name: str, longest: int) -> None:
        self.name, self.longest = name, longest
        super().__init__(
            f"'{shown(name)}' is no name of a key. Expected: 1 to {longest} characters, none of them a line break or unprintable."
        )


class IssuerRefused(UserInputError):
    """The identity provider that the settings name is none that tokens may be taken from."""

    def __init__(self, issuer: str, problem: str, remedy: str) -> None:
        self.issuer, self.problem = issuer, problem
        super().__init__(f"Identity provider '{issuer}' {problem}. {remedy}")


class TokenRefused(Exception):
    """A token that proves nothing; the sentence is fit for the caller."""


class IssuerAway(Exception):
    """No key of the identity provider is known, and it does not answer: whether a token is good cannot be found out."""
