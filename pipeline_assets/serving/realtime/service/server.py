"""The processes of the prediction service: granian's, each of which makes the app for itself."""

from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings
from granian.server import Server

from pipeline_assets.core.settings import PredictionSettings, ServeSettings, home_folder, read_part

APP = "pipeline_assets.serving.realtime.service.process:app"
BACKLOG, MOST_CONNECTIONS, LARGEST_HEAD = 1_024, 4_096, 65_536
# A connection that says nothing for so long is closed, as no more are taken once there are MOST_CONNECTIONS; and a process that does not
# end by itself is killed.
SILENT_MS, ENDING_SECONDS = 5_000, 15


def run(settings: ServeSettings) -> None:
    """Serves until SIGTERM or SIGINT, then answers what it has begun."""
    # So that a mistake in the settings is one sentence, and not one of each process.
    read_part(PredictionSettings, home_folder())
    Server(
        APP,
        address=settings.serve_host,
        port=settings.serve_port,
        interface=Interfaces.ASGI,
        loop=Loops.uvloop,
        workers=settings.serve_workers,
        factory=True,
        websockets=False,
        backlog=BACKLOG,
        backpressure=MOST_CONNECTIONS,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=SILENT_MS, max_buffer_size=LARGEST_HEAD),
        workers_kill_timeout=ENDING_SECONDS,
        respawn_failed_workers=True,
        ssl_cert=settings.serve_certificate,
        ssl_key=settings.serve_certificate_key,
    ).serve()
