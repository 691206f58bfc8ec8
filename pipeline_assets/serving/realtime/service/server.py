"""The processes of the prediction service: granian's, each of which makes the app for itself."""

from granian.constants import Interfaces, Loops
from granian.server import Server

from pipeline_assets.core.settings import PredictionSettings, ServeSettings, home_folder, read_part

APP = "pipeline_assets.serving.realtime.service.process:app"
BACKLOG, MOST_AT_ONCE = 1_024, 512


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
        backpressure=MOST_AT_ONCE,
        respawn_failed_workers=True,
        ssl_cert=settings.serve_certificate,
        ssl_key=settings.serve_certificate_key,
    ).serve()
