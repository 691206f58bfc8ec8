"""The command `serve-keys`: makes, lists, rotates and revokes API keys of the prediction service. It needs no service and no database."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline_assets.core.foreign import shown

if TYPE_CHECKING:
    from pipeline_assets.serving.realtime.access.callers import Role
    from pipeline_assets.serving.realtime.access.keys import Key

MOST_DAYS, DEFAULT_DAYS = 3650, 90
Name = Annotated[str, typer.Argument(help="Its name, as lists and logs show it.")]
Days = Annotated[int, typer.Option(min=1, max=MOST_DAYS, help="How many days the secret works.")]
Change = Callable[[dict[str, "Key"]], tuple[Mapping[str, "Key"], "tuple[Key, str]"]]


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    keys = typer.Typer(no_args_is_help=True, help="The API keys of the prediction service.")
    for command in (create, rotate, revoke):
        keys.command()(command)
    keys.command("list")(listed)
    app.add_typer(keys, name="serve-keys")


def create(
    name: Name,
    *,
    role: Annotated[
        list[str],
        typer.Option(
            help="What it may do: predict, feedback, read, events, viewer or operator of the web pages, or admin (all). May be repeated."
        ),
    ],
    days: Days = DEFAULT_DAYS,
    requests_per_second: Annotated[float | None, typer.Option(help="Requests per second in the long run.")] = None,
    burst: Annotated[int | None, typer.Option(min=1, help="Requests at once.")] = None,
    rows_per_request: Annotated[int | None, typer.Option(min=1, help="Rows in one request.")] = None,
) -> None:
    """Make a key and print it, once: only its digest is kept. A running service takes it up within a second."""
    from pipeline_assets.core.errors import UserInputError
    from pipeline_assets.serving.realtime.access.callers import Limits
    from pipeline_assets.serving.realtime.access.key_file import create_key

    if requests_per_second is not None and requests_per_second <= 0:
        raise UserInputError("--requests-per-second is no number above 0. Leave it out for no limit.")
    limits = Limits(requests_per_second=requests_per_second, burst=burst, rows_per_request=rows_per_request)
    _show(*create_key(_path(), name, [_role(one) for one in role], lives=timedelta(days=days), limits=limits))


def rotate(name: Name, *, days: Days = DEFAULT_DAYS) -> None:
    """Make a new secret for a key and print it. The old one works until its own end, so callers can change over in between."""
    from pipeline_assets.serving.realtime.access.keys import utc_now, with_new_secret

    def change(keys: "dict[str, Key]") -> "tuple[Mapping[str, Key], tuple[Key, str]]":
        key, text = with_new_secret(_named(keys, name), now=utc_now(), lives=timedelta(days=days))
        return {**keys, key.id: key}, (key, text)

    _show(*_change(change))


def revoke(name: Name) -> None:
    """End a key with all its secrets, and the sessions that were begun with it. A running service refuses it within a second."""
    from pipeline_assets.serving.realtime.access.keys import revoked, utc_now

    def change(keys: "dict[str, Key]") -> "tuple[Mapping[str, Key], tuple[Key, str]]":
        key = revoked(_named(keys, name), now=utc_now())
        return {**keys, key.id: key}, (key, "")

    key, _ = _change(change)
    typer.echo(f"Revoked: {key.name} ({key.id}).")


def listed(*, as_json: Annotated[bool, typer.Option("--json", help="Print a list of objects.")] = False) -> None:
    """Show the keys: id, name, roles, limits and ends. Secrets are not among it, as they are not kept."""
    from pipeline_assets.serving.realtime.access.key_file import read_keys
    from pipeline_assets.serving.realtime.access.keys import is_live, utc_now

    path, now = _path(), utc_now()
    found = read_keys(path) if path.exists() else {}
    listed = [
        {
            "id": key.id,
            "name": key.name,
            "roles": sorted(key.roles),
            "state": "revoked" if key.revoked_at is not None else "live" if is_live(key, now) else "expired",
            "created_at": key.created_at.isoformat(),
            "secrets_end_at": sorted(secret.until.isoformat() for secret in key.secrets),
            **asdict(key.limits),
        }
        for key in found.values()
    ]
    typer.echo(json.dumps(listed, indent=2) if as_json else _table(listed))


def _table(listed: list[dict[str, object]]) -> str:
    if not listed:
        return "There are no keys yet. Make one with `pipeline serve-keys create`."
    lines = []
    for key in listed:
        limits = [f"{key[name]} {name.replace('_', ' ')}" for name in ("requests_per_second", "burst", "rows_per_request") if key[name]]
        ends = ", ".join(key["secrets_end_at"]) if isinstance(key["secrets_end_at"], list) else ""
        roles = ", ".join(key["roles"]) if isinstance(key["roles"], list) else ""
        named, until = f"{key['id']}  {shown(key['name'])}: {key['state']}", [f"until {ends}"] if ends else []
        lines.append("; ".join([named, roles, *limits, *until]))
    return "\n".join(lines)


def _role(name: str) -> "Role":
    from pipeline_assets.core.errors import UnknownName
    from pipeline_assets.serving.realtime.access.callers import Role

    if name not in set(Role):
        raise UnknownName("role", name, [*Role])
    return Role(name)


def _named(keys: "Mapping[str, Key]", name: str) -> "Key":
    """The key with a name that was not revoked."""
    from pipeline_assets.core.errors import UnknownName

    known = {key.name: key for key in keys.values() if key.revoked_at is None}
    if name not in known:
        raise UnknownName("key", name, list(known))
    return known[name]


def _change(change: Change) -> "tuple[Key, str]":
    from pipeline_assets.serving.realtime.access.key_file import change_keys

    return change_keys(_path(), change)


def _path() -> Path:
    from pipeline_assets.core.settings import AccessSettings, home_folder, read_part

    return read_part(AccessSettings, home_folder()).keys_file


def _show(key: "Key", text: str) -> None:
    """The key alone on standard output, so that a script can take it from there; all else on standard error."""
    until = key.secrets[-1].until.isoformat(timespec="minutes")
    typer.echo(f"Key '{key.name}' ({', '.join(sorted(key.roles))}), until {until}. It is shown this once:", err=True)
    typer.echo(text)
