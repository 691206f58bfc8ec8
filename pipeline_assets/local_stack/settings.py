"""The settings that the stack hands out: what the environment gives stays, the rest points to the services started here."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dotenv import dotenv_values

from pipeline_assets.core.errors import SettingsMissing, UnknownName
from pipeline_assets.core.setting_values import LARGEST_PORT
from pipeline_assets.core.settings import STACK_ENV, Part, StackSettings, read_part
from pipeline_assets.core.state_errors import StateFileDamaged
from pipeline_assets.local_stack.inventory import default_ports
from pipeline_assets.local_stack.plan import POSTGRES, Description, Plan, load_secrets, read_state, setting, write_private
from pipeline_assets.local_stack.ports import free_port, holder, is_free
from pipeline_assets.local_stack.processes import family

PORTS = "ports.json"
# Mappings that may be empty: without a world the sources are those that the environment names.
NO_SOURCES = {setting(name): "{}" for name in ("databases", "replication", "services")}


def make_plan(services: Iterable[Description], stack: StackSettings, root: Path, home: Path) -> Plan:
    """The plan of the stack in `home`, which keeps its ports; secrets are made at the first call.

    Raises SettingsMissing for a service of which the environment gives a part only, and UnknownName for the port of no service.
    """
    services = tuple(services)
    groups = [group for service in services for group in service.together]
    missing = [name for group in groups if group[0] in stack.given for name in group if name not in stack.given]
    if missing:
        raise SettingsMissing(missing)
    plan = planned(services, stack, root, home)
    write_private(home / PORTS, json.dumps(dict(plan.ports)))
    return plan


def planned(services: Sequence[Description], stack: StackSettings, root: Path, home: Path) -> Plan:
    """The same plan, for a look: its ports are not kept."""
    plan = Plan(
        root=root,
        home=home,
        ports=chosen_ports(home, services, stack.ports),
        secrets=load_secrets(home, tuple(name for service in services for name in service.secrets)),
        given=stack.given,
        settings=stack.given,
        maven_url=stack.maven_url,
    )
    made = {name: value for service in services for name, value in service.settings(plan).items()}
    return replace(plan, settings={**NO_SOURCES, **made, **stack.given})


def without_own(services: Sequence[Description], stack: StackSettings, root: Path, home: Path) -> StackSettings:
    """The settings of the stack without those given that it has handed out itself, as whoever loads `stack.env` or `.env` gives them back.

    No service is elsewhere because of them. A DSN, which has a password, counts by itself, whatever it was handed out for; what else is
    given of a service is the stack's where all of it is as the stack hands it out: a bucket of the same name may be in another store. A
    folder without an `up` has none.
    """
    if not (home / "secrets.json").exists():
        return stack
    bare = stack.model_copy(update={"given": {}})
    plan = planned(services, bare, root, home)
    written = dotenv_values(home / STACK_ENV, interpolate=False) if (home / STACK_ENV).exists() else {}
    own = {name for name, nothing in NO_SOURCES.items() if stack.given.get(name) == nothing}
    for service in services:
        handed_out = service.settings(plan)
        made = {name: value for name, value in handed_out.items() if name in stack.given}
        any_role = handed_out.values() if service.name == POSTGRES else ()
        same = {name for name, value in made.items() if stack.given[name] in (value, written.get(name), *any_role)}
        own |= same if service.name == POSTGRES or len(same) == len(made) else set()
    return stack.model_copy(update={"given": {name: value for name, value in stack.given.items() if name not in own}})


def remove_unreadable(home: Path) -> None:
    """Delete a `stack.env` that cannot be read: `up` writes it anew, and what it plans by would end with the error that names `up`."""
    try:
        read_part(Part, home)
    except StateFileDamaged:
        (home / STACK_ENV).unlink()


def chosen_ports(home: Path, services: Iterable[Description], chosen: Mapping[str, int]) -> dict[str, int]:
    """The port of each service: the chosen one, else the default; for 0 the one it had last, if that can be had again, else a free one."""
    owners = {port: service.name for service in services for port in service.ports}
    wanted = default_ports(services) | {name.replace("_", "-") if name not in owners else name: port for name, port in chosen.items()}
    for name in wanted.keys() - owners.keys():
        raise UnknownName("port", port_setting(name), [port_setting(known) for known in owners])
    last = read_state(home / PORTS, "Delete it: `pipeline up` picks the ports anew", int, lambda port: 0 < port <= LARGEST_PORT)
    return {name: port if port != 0 else _again(home, owners[name], last.get(name)) for name, port in wanted.items()}


def port_setting(port: str) -> str:
    """The variable of a port, by which it is chosen."""
    return setting(f"ports__{port.replace('-', '_')}")


def _again(home: Path, owner: str, last: int | None) -> int:
    """The last port, if it is free or held by the service itself or by what a killed one left behind; else a free one."""
    if last is not None and (is_free(last) or holder(last)[0] in {process.pid for process in family(home, owner)}):
        return last
    return free_port()


def write_settings(plan: Plan) -> Path:
    """Write `stack.env` with the settings made here; those that the environment gives are not copied."""
    path = plan.home / STACK_ENV
    write_private(path, "".join(f"{name}={value}\n" for name, value in plan.settings.items() if name not in plan.given))
    return path
