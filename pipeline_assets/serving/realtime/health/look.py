"""A look at the running prediction service: what it says of itself, or why it says nothing; and what the ledger has live."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from pipeline_assets.core.connections import warehouse
from pipeline_assets.core.errors import SettingsMalformed
from pipeline_assets.core.http_errors import beginning_of, said
from pipeline_assets.core.https import verification
from pipeline_assets.core.settings import PREFIX, ServiceReader, WarehouseSettings
from pipeline_assets.model_lifecycle.registry import ledger

if TYPE_CHECKING:
    from pipeline_assets.serving.realtime.overview import Overview

ANSWER_SECONDS = 5.0
START = "See `pipeline status`: a dead `predictions` is started again by `pipeline up`; `pipeline logs predictions` says why it ended."
KEY = (
    "`pipeline up` renews the key of a service that it runs. For another one set PIPELINE_SERVE_READ_KEY to a key of the role read: "
    "`pipeline serve-keys create dagster --role read` makes one."
)
VERSION = "Have the service and the code location run the same version of this project."


@dataclass(frozen=True, kw_only=True)
class Unread:
    """Why the service could not be asked, and what to do."""

    problem: str
    todo: str


@dataclass(frozen=True, kw_only=True)
class Look:
    """The service at a moment, the live version of each model by the ledger, and how far the past of a model's use case was replayed."""

    url: str
    found: "Overview | Unread"
    live: Mapping[str, ledger.Live]
    replays: Mapping[str, datetime]


def look(service: ServiceReader, settings: WarehouseSettings, replays: Mapping[str, datetime]) -> Look:
    """What there is to see now; a service that does not answer is what was found, a ledger that does not is an error.

    replays: how far the past of a model's use case was replayed, of those that have a replay clock.
    """
    with warehouse(settings) as connection:
        live = ledger.live_versions(connection)
    return Look(url=service.serve_url, found=_asked(service), live=live, replays=replays)


def _asked(service: ServiceReader) -> "Overview | Unread":
    import httpx
    import msgspec

    from pipeline_assets.serving.realtime.overview import Overview

    url = f"{service.serve_url.rstrip('/')}/v1/service"
    headers = {"authorization": f"Bearer {service.serve_read_key.get_secret_value()}"}
    try:
        verify = verification(f"{PREFIX}SERVE_URL", service.serve_url, service, trust_env=False)
        answer = httpx.get(url, headers=headers, timeout=ANSWER_SECONDS, trust_env=False, verify=verify)
    except SettingsMalformed as error:
        return Unread(problem=str(error), todo="Correct the setting, or the certificate of the service.")
    except httpx.HTTPError as error:
        return Unread(problem=f"{url} does not answer: {type(error).__name__} {said(str(error))}".strip(), todo=START)
    if answer.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
        return Unread(problem=f"{url} refuses the key: {said(beginning_of(answer))}", todo=KEY)
    if not answer.is_success:
        return Unread(problem=f"{url} answers {answer.status_code}: {said(beginning_of(answer))}", todo=START)
    try:
        return msgspec.json.decode(answer.content, type=Overview)
    except msgspec.DecodeError as error:
        return Unread(problem=f"{url} answers in another form: {said(str(error))}", todo=VERSION)
