"""The services of a project: those of the platform, and those of its worlds."""

from collections.abc import Iterable, Sequence

from pipeline_assets.core.errors import UserInputError
from pipeline_assets.local_stack import connect, dagster, kafka, mlflow, online_worker, postgres, prediction_service, s3, simulator
from pipeline_assets.local_stack.plan import Description
from pipeline_assets.local_stack.worlds import World


def described(worlds: Sequence[World]) -> dict[str, Description]:
    """The services of the platform and of the worlds by name, each after those that it needs; raises UserInputError for two of one name."""
    platform = (
        postgres.description([name for world in worlds for name in world.databases]),
        s3.DESCRIPTION,
        kafka.DESCRIPTION,
        connect.DESCRIPTION,
        online_worker.DESCRIPTION,
        prediction_service.DESCRIPTION,
        dagster.CODE_SERVER,
        mlflow.DESCRIPTION,
        dagster.WEB_SERVER,
        dagster.DAEMON_PROCESS,
    )
    found = {each.name: each for each in platform}
    taken = {*found, *postgres.DATABASES}
    for world in worlds:
        for name in sorted(taken & {*world.databases, *world.services}):
            raise UserInputError(f"World '{world.name}' declares '{name}', which is a service or database of the platform. Rename it.")
        found |= {name: simulator.description(name, declared) for name, declared in world.services.items()}
    return found


def default_ports(services: Iterable[Description]) -> dict[str, int]:
    """The ports of services, by name, where none are chosen."""
    return {name: port for service in services for name, port in service.ports.items()}
