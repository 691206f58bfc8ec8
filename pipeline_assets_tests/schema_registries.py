"""A schema registry of a test's own, on loopback: Confluent's REST interface for schemas by id, and by subject and version."""

import base64
import json
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from threading import Thread
from typing import Any
from urllib.parse import unquote

import fastavro

from pipeline_assets.core.setting_values import SchemaRegistry
from pipeline_assets.spec.sources import Avro
from pipeline_assets_tests.readings import reading

USER, PASSWORD = "reader", "s3cret"
TIME = {"type": "long", "logicalType": "timestamp-micros"}
FIRST: dict[str, Any] = {
    "type": "record",
    "name": "Reading",
    "fields": [
        {"name": "sensor", "type": "string"},
        {"name": "level", "type": "int"},
        {"name": "value", "type": "float"},
        {"name": "read_at", "type": TIME},
        {"name": "sent_at", "type": TIME},
    ],
}
# A field more with a default, one of a wider type, one gone, one renamed, and another order.
SECOND: dict[str, Any] = {
    "type": "record",
    "name": "Reading",
    "fields": [
        {"name": "kind", "type": ["null", "string"], "default": None},
        {"name": "sent_at", "type": TIME},
        {"name": "read_at", "type": TIME},
        {"name": "value", "type": "double"},
        {"name": "sensor", "type": "string", "aliases": ["device"]},
    ],
}
FORMAT = Avro(schema=json.dumps(SECOND), is_framed=True, registry="plant")


def framed(number: int, schema: dict[str, Any], **changed: object) -> bytes:
    """A reading that was written with a schema, behind an id."""
    content = BytesIO()
    fastavro.schemaless_writer(content, fastavro.parse_schema(schema), {**reading(), **changed})
    return b"\0" + struct.pack(">I", number) + content.getvalue()


def reference(name: str, subject: str, version: int = 1) -> dict[str, Any]:
    """A reference as a registry answers it."""
    return {"name": name, "subject": subject, "version": version}


@dataclass(kw_only=True)
class Registry:
    """What a registry has: schemas as JSON by id, and answers by subject and version.

    `about` is what is answered of an id beside, or instead. `asked` are the paths that it was asked for; `ill` answers are 503 before it
    recovers.
    """

    url: str = ""
    schemas: dict[int, Any] = field(default_factory=dict)
    about: dict[int, dict[str, Any]] = field(default_factory=dict)
    subjects: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    ill: int = 0

    @property
    def settings(self) -> SchemaRegistry:
        """How it is reached."""
        return SchemaRegistry.model_validate({"url": self.url, "user": USER, "password": PASSWORD})

    def has_text(self, number: int, kind: str, text: str, *references: dict[str, Any]) -> None:
        """Give a schema of another kind than Avro an id."""
        self.schemas[number] = None
        self.about[number] = {"schema": text, "schemaType": kind, "references": list(references)}

    def answer(self, path: str, authorization: str | None) -> tuple[int, dict[str, Any]]:
        """Status and body of an answer."""
        self.asked.append(path)
        if self.ill:
            self.ill -= 1
            return 503, {"error_code": 50301, "message": "not yet"}
        if authorization != "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode():
            return 401, {"error_code": 401, "message": "Unauthorized"}
        if subject := re.fullmatch(r"/subjects/([^/]+)/versions/(\d+)\?deleted=true", path):
            found = self.subjects.get((unquote(subject[1]), int(subject[2])))
            return (200, found) if found is not None else (404, {"error_code": 40402, "message": "Version not found."})
        start, _, number = path.rpartition("/")
        if start != "/schemas/ids":
            return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}
        if int(number) not in self.schemas:
            return 404, {"error_code": 40403, "message": f"Schema {number} not found"}
        return 200, {"schema": json.dumps(self.schemas[int(number)]), **self.about.get(int(number), {})}


@contextmanager
def registry() -> Iterator[Registry]:
    """An empty registry that answers until the block ends."""
    kept = Registry()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer."""
            status, body = kept.answer(self.path, self.headers.get("Authorization"))
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        kept.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield kept
        finally:
            server.shutdown()
            thread.join()
