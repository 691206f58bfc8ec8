"""The prediction service: it answers with the live version of each model, and needs no Dagster."""

from functools import partial
from pathlib import Path

from pipeline_assets.core.settings import ONLINE_DSN, PREFIX, WAREHOUSE_DSN, AccessSettings, CodeSettings, PredictionSettings, ServeSettings
from pipeline_assets.local_stack import postgres, roles
from pipeline_assets.local_stack.http import answers
from pipeline_assets.local_stack.own_keys import key_text, renew_key
from pipeline_assets.local_stack.plan import (
    HOST,
    KAFKA,
    POSTGRES,
    PREDICTIONS,
    S3,
    WITHOUT_TLS,
    Description,
    Plan,
    Service,
    has,
    private_folder,
    product_settings,
    program,
    setting,
)

URL, READ_KEY = setting("serve_url"), setting("serve_read_key")
# The secret that the key of whoever watches the service is made of, and the name of that key.
SECRET, KEY_NAME = "predictions_read_key", "stack"
# What the process reads, by the full names; it has no credentials of owners of databases, nor of other services, in its environment.
READ = frozenset(
    f"{PREFIX}{name.upper()}" for part in (PredictionSettings, AccessSettings, CodeSettings, ServeSettings) for name in part.model_fields
)


def service(plan: Plan) -> Service:
    """The service; it is ready once every model that is live serves. It starts in a folder that has no `.env` of another stack."""
    port, folder = plan.ports[PREDICTIONS], plan.home / PREDICTIONS
    # Empty counts as none: what the starter's own environment has of the rest is not passed on either.
    own = {name: value if name in READ else "" for name, value in {**product_settings(plan), setting("dagster_key"): ""}.items()}
    reading = {one: postgres.dsn(plan.secrets, plan.ports[POSTGRES], name, role=roles.PREDICTIONS) for name, one in _owned(plan).items()}
    return Service(
        name=PREDICTIONS,
        command=(program("pipeline"), "serve"),
        folder=folder,
        environment={**own, **reading, **WITHOUT_TLS, setting("serve_port"): str(port)},
        port=port,
        url=url(port),
        is_ready=partial(answers, f"{url(port)}/v2/health/ready"),
        prepare=partial(_make, plan, folder),
        finish=partial(_renew_key, plan),
    )


def url(port: int) -> str:
    """The address of the service."""
    return f"http://{HOST}:{port}"


def _owned(plan: Plan) -> dict[str, str]:
    """The databases of the stack that the service reads, with their settings; in others it has the role that is given."""
    return {name: one for name, one in (("warehouse", WAREHOUSE_DSN), ("online", ONLINE_DSN)) if one not in plan.given}


def _make(plan: Plan, folder: Path) -> None:
    private_folder(folder)
    roles.let_predict({name: plan.settings[one] for name, one in _owned(plan).items()})


def _settings(plan: Plan) -> dict[str, str]:
    """Its address, and the key to read how it is: not where the address is that of another service, which should not get it."""
    own = {} if URL in plan.given else {READ_KEY: key_text(plan, SECRET)}
    return {URL: url(plan.ports[PREDICTIONS]), **own}


def _renew_key(plan: Plan) -> None:
    """Has the service know the key."""
    from pipeline_assets.serving.realtime.access.callers import Role

    renew_key(plan, SECRET, KEY_NAME, Role.READ)


DESCRIPTION = Description(
    name=PREDICTIONS,
    build=service,
    ports={PREDICTIONS: 8700},
    secrets=(SECRET,),
    settings=_settings,
    is_elsewhere=has(URL),
    needs=(POSTGRES, S3, KAFKA),
    is_page=True,
)
