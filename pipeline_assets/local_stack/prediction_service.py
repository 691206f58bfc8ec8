"""The prediction service: it answers with the live version of each model, and needs no Dagster."""

from functools import partial
from pathlib import Path

from pipeline_assets.local_stack.http import answers
from pipeline_assets.local_stack.plan import (
    HOST,
    KAFKA,
    POSTGRES,
    PREDICTIONS,
    S3,
    Description,
    Plan,
    Service,
    has,
    private_folder,
    product_settings,
    program,
    setting,
)

URL = setting("serve_url")


def service(plan: Plan) -> Service:
    """The service; it is ready once every model that is live serves. It starts in a folder that has no `.env` of another stack."""
    port, folder = plan.ports[PREDICTIONS], plan.home / PREDICTIONS
    return Service(
        name=PREDICTIONS,
        command=(program("pipeline"), "serve"),
        folder=folder,
        environment={**product_settings(plan), setting("serve_port"): str(port)},
        port=port,
        url=url(port),
        is_ready=partial(answers, f"{url(port)}/v2/health/ready"),
        prepare=partial(_make, folder),
    )


def url(port: int) -> str:
    """The address of the service."""
    return f"http://{HOST}:{port}"


def _make(folder: Path) -> None:
    private_folder(folder)


DESCRIPTION = Description(
    name=PREDICTIONS,
    build=service,
    ports={PREDICTIONS: 8700},
    settings=lambda plan: {URL: url(plan.ports[PREDICTIONS])},
    is_elsewhere=has(URL),
    needs=(POSTGRES, S3, KAFKA),
    is_page=True,
)
