"""Keys of the local stack itself, with which it looks at its own services: each is made of a secret of the stack."""

from datetime import timedelta
from typing import TYPE_CHECKING

from pipeline_assets.core.settings import AccessSettings, read_part
from pipeline_assets.local_stack.plan import Plan

if TYPE_CHECKING:
    from pipeline_assets.serving.realtime.access.callers import Role

# How long a key lasts after each `pipeline up`.
KEY_LIVES = timedelta(days=400)


def key_text(plan: Plan, secret: str) -> str:
    """The key that a secret makes, always the same."""
    from pipeline_assets.serving.realtime.access.keys import text_of

    return text_of(plan.secrets[secret])


def renew_key(plan: Plan, secret: str, name: str, role: "Role") -> None:
    """Has the file of keys know it, from now on for its whole life."""
    from pipeline_assets.serving.realtime.access.key_file import change_keys
    from pipeline_assets.serving.realtime.access.keys import key_of, utc_now

    key = key_of(key_text(plan, secret), name, [role], now=utc_now(), lives=KEY_LIVES)
    change_keys(read_part(AccessSettings, plan.home).keys_file, lambda keys: ({**keys, key.id: key}, None))
