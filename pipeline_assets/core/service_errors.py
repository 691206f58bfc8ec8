"""What services that are away, full or overloaded say by the libraries that ask them: one sentence where a command ends.

Inside the product these errors keep their classes, as callers go by them; what is a fault of the platform itself, as a statement that the
server cannot read, keeps its trace.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline_assets.core.errors import PipelineError
from pipeline_assets.core.foreign import masked, shown

# A line of a server, and what follows it in others.
LONGEST_PROBLEM = 500
POSTGRES = ("PostgreSQL", "PIPELINE_…_DSN")
STORE = ("The object store", "PIPELINE_S3_ENDPOINT")
KAFKA = ("Kafka", "PIPELINE_KAFKA_BOOTSTRAP")
MLFLOW = ("MLflow", "PIPELINE_MLFLOW_URL")
OTHER = ("A service", "the settings")
# By the names of classes, so that no library is loaded to look for its errors.
OF_SERVICES = {
    "psycopg.OperationalError": POSTGRES,
    "psycopg2.OperationalError": POSTGRES,
    "sqlalchemy.exc.OperationalError": POSTGRES,
    "adbc_driver_manager.OperationalError": POSTGRES,
    "botocore.exceptions.ConnectionError": STORE,
    "botocore.exceptions.HTTPClientError": STORE,
    "botocore.exceptions.ClientError": STORE,
    "cimpl.KafkaException": KAFKA,
    "mlflow.exceptions.MlflowException": MLFLOW,
    "httpx.HTTPError": OTHER,
    "requests.exceptions.ConnectionError": OTHER,
    "requests.exceptions.Timeout": OTHER,
    "urllib3.exceptions.HTTPError": OTHER,
    "builtins.ConnectionError": OTHER,
    "builtins.TimeoutError": OTHER,
}
# Arrow has no class of its own for what an object store answers.
OF_ARROW = "AWS Error"


class ServiceUnusable(PipelineError):
    """A service that a command needs is away, or cannot do what it is asked, as one whose disk is full."""

    def __init__(self, service: str, setting: str, problem: str) -> None:
        self.service, self.setting, self.problem = service, setting, problem
        super().__init__(
            f"{service} cannot do what it is asked: {problem}. `pipeline status` shows which services of the local stack run, "
            f"`pipeline up` starts them, `pipeline logs` shows what they say; for one elsewhere look at {setting}."
        )


@contextmanager
def errors_of_services() -> Iterator[None]:
    """Raises ServiceUnusable for what a service, or the way to it, is the reason of; other errors pass."""
    try:
        yield
    except Exception as error:
        found = _service_of(error)
        if found is None:
            raise
        problem = shown(masked(" ".join(str(error).split())), LONGEST_PROBLEM).rstrip(".")
        raise ServiceUnusable(*found, problem or type(error).__name__) from error


def _service_of(error: Exception) -> tuple[str, str] | None:
    if isinstance(error, OSError) and OF_ARROW in str(error):
        return STORE
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__)
    return next((OF_SERVICES[name] for name in names if name in OF_SERVICES), None)
