"""The settings that the stack hands out: what the environment gives stays, the rest points to the services started here."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from pipeline_assets.core.errors import SettingsMissing, UnknownName
from pipeline_assets.core.settings import STACK_ENV, StackSettings
from pipeline_assets.local_stack.inventory import default_ports
from pipeline_assets.local_stack.plan import Description, Plan, load_secrets, setting, write_private
from pipeline_assets.local_stack.ports import free_port, holder, is_free
from pipeline_assets.local_stack.processes import family

# Mappings that may be empty: without a world the sources are those that the environment names.
NO_SOURCES = {setting(name): "{}" for name in ("databases", "replication", "services")}


def make_plan(services: Iterable[Description], stack: StackSettings, root: Path, home: Path) -> Plan:
    """The plan of the stack in `home`; secrets are made at the first call.

    Raises SettingsMissing for a service of which the environment gives a part only, and UnknownName for the port of no service.
    """
    services = tuple(services)
    groups = [group for service in services for group in service.together]
    missing = [name for group in groups if group[0] in stack.given for name in group if name not in stack.given]
    if missing:
        raise SettingsMissing(missing)
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


def chosen_ports(home: Path, services: Iterable[Description], chosen: Mapping[str, int]) -> dict[str, int]:
    """The port of each service: the chosen one, else the default; for 0 the one it had last, if that can be had again, else a free one."""
    owners = {port: service.name for service in services for port in service.ports}
    wanted = default_ports(services) | {name.replace("_", "-") if name not in owners else name: port for name, port in chosen.items()}
    for name in wanted.keys() - owners.keys():
        raise UnknownName("port", port_setting(name), [port_setting(known) for known in owners])
    path = home / "ports.json"
    last: dict[str, int] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    ports = {name: port if port != 0 else _again(home, owners[name], last.get(name)) for name, port in wanted.items()}
    write_private(path, json.dumps(ports))
    return ports


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
