"""What the prediction service's client raises: an error for each kind of answer, made from the problem document (RFC 9457) in it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline_assets.core.errors import PipelineError, TransientError, UserInputError


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A problem document; `members` are those beside the standard ones, such as `model`, `row` and `field`."""

    status: int
    title: str
    detail: str
    members: Mapping[str, object] = field(default_factory=dict)


class ServiceProblem(PipelineError):
    """The service answered by a problem; the kinds of it say whose it is to solve."""

    def __init__(self, problem: Problem, retry_after_seconds: float | None = None) -> None:
        self.problem, self.retry_after_seconds = problem, retry_after_seconds
        super().__init__(f"The prediction service answered {problem.status} {problem.title}: {problem.detail}")


class NotAllowed(ServiceProblem, UserInputError):
    """401 or 403: the key is not known, or may not do this."""


class NotServed(ServiceProblem, UserInputError):
    """404: there is no such model, version or prediction."""


class RequestRefused(ServiceProblem, UserInputError):
    """Another 4xx: the request is wrong, and will be wrong again. `problem.members` name row and field, where it is about one."""


class ServiceBusy(ServiceProblem, TransientError):
    """429, 503, or 409 for a repetition of what is being answered: not now; `retry_after_seconds` says when, where the service knows."""


class ServiceBroken(ServiceProblem):
    """Another 5xx: the fault is the service's; its log says which."""


class ServiceAway(TransientError):
    """No answer came: no connection, one that broke, or none in time."""

    def __init__(self, url: str, problem: str) -> None:
        self.url, self.problem = url, problem
        super().__init__(f"The prediction service at {url} did not answer: {problem}.")
