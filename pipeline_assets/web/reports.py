"""Drift reports on the web server, for whoever may see its pages: read from the object store when they are asked for, so no link expires.

A report is a page that a library made, with scripts of its own, about values that come from outside. It is shown in a sandbox of its own
origin, from which it reaches neither the session, nor Dagster, nor any network.
"""

import re
from collections.abc import Callable
from gzip import decompress
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pipeline_assets.core import names
from pipeline_assets.core.errors import SettingsMissing
from pipeline_assets.core.settings import ObjectStoreSettings

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

# No other object of the store can be asked for.
REPORT = re.compile(r"(?P<model>[a-z][a-z0-9_]*)/(?P<name>[0-9]{4}-[0-9]{2}-[0-9]{2}_v[0-9]+\.html)")
POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)
READ = Callable[[], ObjectStoreSettings]


def report_route(read_settings: READ) -> Route:
    """The route of reports; the settings of the object store are read with the first one that is asked for."""

    def show(request: Request) -> Response:
        asked = REPORT.fullmatch(request.path_params["report"])
        if asked is None:
            return _missing()
        try:
            page = _read(read_settings(), names.report_key(asked["model"], asked["name"]))
        except SettingsMissing as error:
            return PlainTextResponse(f"The object store with the reports is not set up here. {error}", HTTPStatus.SERVICE_UNAVAILABLE)
        if page is None:
            return _missing()
        is_packed = "gzip" in request.headers.get("accept-encoding", "")
        packing = {"content-encoding": "gzip"} if is_packed else {}
        headers = {"content-security-policy": POLICY, "cache-control": "private, no-cache", "vary": "accept-encoding", **packing}
        return Response(page if is_packed else decompress(page), media_type="text/html", headers=headers)

    return Route(f"{names.REPORTS_PATH}/{{report:path}}", show)


def _read(settings: ObjectStoreSettings, key: str) -> bytes | None:
    """The packed page; None where there is none."""
    from pipeline_assets.core.connections import object_store

    client: S3Client = object_store(settings)
    try:
        return client.get_object(Bucket=settings.s3_bucket, Key=key)["Body"].read()
    except client.exceptions.NoSuchKey:
        return None


def _missing() -> Response:
    return PlainTextResponse("There is no such report. Materialize the drift of the day again to have one made.", HTTPStatus.NOT_FOUND)
