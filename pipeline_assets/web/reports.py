"""Drift reports on the web server, for whoever may see its pages: read from the object store when they are asked for, so no link expires.

A report is a page that a library made, with scripts of its own, about values that come from outside. It is shown in a sandbox of its own
origin, from which it reaches neither the session nor Dagster, and loads and fetches nothing. No policy forbids a page to open another
address in its own place, or WebRTC: a script that came in with a value could send away what the report itself shows.
"""

import re
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pipeline_assets.core import names
from pipeline_assets.core.errors import UserInputError
from pipeline_assets.core.packed import is_packed, unpacked
from pipeline_assets.core.settings import ObjectStoreSettings

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

# No other object of the store can be asked for.
REPORT = re.compile(r"(?P<model>[a-z][a-z0-9_]*)/(?P<name>[0-9]{4}-[0-9]{2}-[0-9]{2}_v[0-9]+\.html)")
POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)
REFUSED = re.compile(r"q=0(\.0*)?")
READ = Callable[[], ObjectStoreSettings]


def report_route(read_settings: READ) -> Route:
    """The route of reports; the settings of the object store are read with the first one that is asked for."""

    def show(request: Request) -> Response:
        asked = REPORT.fullmatch(request.path_params["report"])
        if asked is None:
            return _missing()
        try:
            page = _read(read_settings(), names.report_key(asked["model"], asked["name"]))
        except UserInputError as error:
            return _away(f"is not set up here. {error}")
        except (BotoCoreError, ClientError) as error:
            return _away(f"cannot be read. {error}")
        if page is None:
            return _missing()
        is_sent_packed = is_packed(page) and _takes_gzip(request.headers.get("accept-encoding", ""))
        packing = {"content-encoding": "gzip"} if is_sent_packed else {}
        headers = {"content-security-policy": POLICY, "cache-control": "private, no-cache", "vary": "accept-encoding", **packing}
        return Response(page if is_sent_packed else unpacked(page), media_type="text/html", headers=headers)

    return Route(f"{names.REPORTS_PATH}/{{report:path}}", show)


def _read(settings: ObjectStoreSettings, key: str) -> bytes | None:
    """The page as it is stored; None where there is none."""
    from pipeline_assets.core.connections import object_store

    client: S3Client = object_store(settings)
    try:
        return client.get_object(Bucket=settings.s3_bucket, Key=key)["Body"].read()
    except client.exceptions.NoSuchKey:
        return None


def _takes_gzip(accepted: str) -> bool:
    """Whether an `Accept-Encoding` names gzip, and not to refuse it."""
    named = dict(one.replace(" ", "").lower().partition(";")[::2] for one in accepted.split(","))
    return "gzip" in named and REFUSED.fullmatch(named["gzip"]) is None


def _away(why: str) -> Response:
    return PlainTextResponse(f"The object store with the reports {why}", HTTPStatus.SERVICE_UNAVAILABLE)


def _missing() -> Response:
    return PlainTextResponse("There is no such report. Materialize the drift of the day again to have one made.", HTTPStatus.NOT_FOUND)
