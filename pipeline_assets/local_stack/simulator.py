"""What the stack runs of the outside worlds of a project: their services, the programs that fill their databases, and their events."""

import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from functools import partial
from hashlib import sha256
from pathlib import Path

from pipeline_assets.core.brokers import client_config
from pipeline_assets.core.errors import ServiceFailed
from pipeline_assets.core.settings import BrokerSettings
from pipeline_assets.local_stack.http import answers
from pipeline_assets.local_stack.plan import HOST, Description, Plan, Service, has, private_folder, setting, write_private
from pipeline_assets.local_stack.postgres import database_setting, owner_setting
from pipeline_assets.local_stack.processes import TAIL_LINES, end_all, family, marked_environment
from pipeline_assets.local_stack.worlds import Program, SourceService, World

DIGITS = 12
PRODUCER = "producer.properties"


def description(name: str, declared: SourceService) -> Description:
    """A service of a world, with an address and a key."""
    address, key = setting(f"services__{name}__url"), setting(f"services__{name}__api_key")
    return Description(
        name=name,
        build=partial(service, name, declared),
        ports={name: declared.port},
        secrets=(f"{name}_api_key",),
        settings=lambda plan: {address: url(plan.ports[name]), key: plan.secrets[f"{name}_api_key"]},
        is_elsewhere=has(address),
        together=((address, key),),
    )


def service(name: str, declared: SourceService, plan: Plan) -> Service:
    """The service as a process of its own; it reads its key from a file."""
    port, key = plan.ports[name], plan.home / name / "api_key"
    return Service(
        name=name,
        command=command(declared.run, host=HOST, port=port, api_key_file=key),
        folder=plan.root,
        port=port,
        url=url(port),
        is_ready=partial(answers, f"{url(port)}{declared.health}"),
        prepare=partial(write_key, key, plan.settings[setting(f"services__{name}__api_key")]),
    )


def url(port: int) -> str:
    """The address of a service."""
    return f"http://{HOST}:{port}"


def write_key(path: Path, key: str) -> None:
    """Put the key of a service where the service reads it."""
    private_folder(path.parent)
    write_private(path, key)


def command(program: Program, **values: object) -> tuple[str, ...]:
    """The command that runs a program of a world, with values in the place of `{…}`."""
    module, *arguments = program
    return (sys.executable, "-m", module, *(argument.format(**values) for argument in arguments))


def databases_to_fill(worlds: Iterable[World], given: Mapping[str, str]) -> dict[str, Program]:
    """The programs that fill databases, by database; one that exists elsewhere is not filled."""
    return {
        name: database.fill
        for world in worlds
        for name, database in world.databases.items()
        if database.fill is not None and database_setting(name) not in given
    }


def fill_database(plan: Plan, name: str, program: Program) -> None:
    """Load the database of a world, once; a load that was killed is repeated, and is idempotent."""
    done = _mark(plan.home, name, program)
    if done.exists():
        return
    end_all(family(plan.home, name))
    environment = {**marked_environment(plan.home, name), owner_setting(name): plan.settings[owner_setting(name)]}
    _run(plan.root, command(program), environment, name, "could not be filled by its simulator")
    done.touch()


def send_events(settings: BrokerSettings, root: Path, world: World, days: tuple[date, date]) -> None:
    """Send the events of the days (both inclusive) to their topics, once; a call that was killed is repeated, and sends them again."""
    if world.events is None:
        return
    (first, last), home = days, settings.home
    done, name = home / "run" / f"events-{world.name}-{first}-{last}.sent", f"{world.name}-events"
    if done.exists():
        return
    end_all(family(home, name))
    config = write_client_properties(settings)
    send = command(world.events.send, bootstrap=settings.kafka_bootstrap, config=config, first=first, last=last)
    _run(root, send, marked_environment(home, name), name, "could not be sent by their simulator")
    done.touch()


def write_client_properties(settings: BrokerSettings) -> Path:
    """Writes the file by which producers of the worlds log in, as librdkafka and its tools (`kcat -F`) read it; its path."""
    path = settings.home / PRODUCER
    write_private(path, "".join(f"{name}={value}\n" for name, value in client_config(settings).items()))
    return path


def _mark(home: Path, name: str, program: Program) -> Path:
    """The file that says that a database was filled by exactly this program."""
    return home / "run" / f"{name}-{sha256(' '.join(program).encode()).hexdigest()[:DIGITS]}.loaded"


def _run(root: Path, program: Sequence[str], environment: Mapping[str, str], subject: str, problem: str) -> None:
    result = subprocess.run(  # noqa: S603 - a simulator of this project
        program, cwd=root, env=environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if result.returncode != 0:
        raise ServiceFailed(subject, problem, "\n".join(result.stdout.splitlines()[-TAIL_LINES:]))
