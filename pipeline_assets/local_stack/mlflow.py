"""The MLflow server: runs and versions in Postgres, artifacts passed through to the object store."""

import sys
from configparser import ConfigParser
from functools import partial
from io import StringIO

from pipeline_assets.core.dsn import sqlalchemy_url
from pipeline_assets.local_stack import s3
from pipeline_assets.local_stack.http import answers
from pipeline_assets.local_stack.plan import (
    HOME,
    HOST,
    MLFLOW,
    POSTGRES,
    Description,
    Plan,
    Service,
    has,
    private_folder,
    setting,
    trusted_by_aws,
    write_private,
)

URL, DSN = setting("mlflow_url"), setting("mlflow_dsn")
USER, PASSWORD = setting("mlflow_user"), setting("mlflow_password")
# Who uses the server, and the secrets: the password of that, and what signs forms of pages. People may have keys instead (`mlflow_login`).
CALLER, LOGIN, SIGNING = "pipeline", "mlflow_login", "mlflow_signing"
CHECKED_SECONDS = 60
WORKERS = 1


def service(plan: Plan) -> Service:
    """The MLflow server of the stack, which asks for a login; its secrets are in its environment and a file, not on its command line."""
    port, settings = plan.ports[MLFLOW], plan.settings
    access_key, secret_key, artifacts = s3.of_mlflow(plan)
    command = ("server", "--app-name", "basic-auth", "--host", HOST, "--port", str(port), "--workers", str(WORKERS))
    return Service(
        name=MLFLOW,
        command=(sys.executable, "-m", "pipeline_assets.local_stack.mlflow_server", *command),
        folder=plan.home,
        environment={
            "MLFLOW_BACKEND_STORE_URI": sqlalchemy_url(DSN, settings[DSN], "psycopg"),
            "MLFLOW_SERVE_ARTIFACTS": "true",
            "MLFLOW_ARTIFACTS_DESTINATION": artifacts,
            "MLFLOW_S3_ENDPOINT_URL": settings["PIPELINE_S3_ENDPOINT"],
            "AWS_DEFAULT_REGION": settings["PIPELINE_S3_REGION"],
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": secret_key,
            **trusted_by_aws(plan),
            HOME: str(plan.home),
            "MLFLOW_AUTH_CONFIG_PATH": str(plan.home / MLFLOW / "login.ini"),
            "MLFLOW_AUTH_ADMIN_USERNAME": CALLER,
            "MLFLOW_AUTH_ADMIN_PASSWORD": plan.secrets[LOGIN],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": plan.secrets[SIGNING],
            # No agents or language models are judged here: their job queue would only cost memory.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        },
        port=port,
        url=url(port),
        is_ready=partial(answers, f"{url(port)}/health"),
        prepare=partial(write_login, plan),
    )


def write_login(plan: Plan) -> None:
    """How the server knows its users: in its own database, and by keys. Only who is named there may do anything."""
    login = ConfigParser(interpolation=None)
    login["mlflow"] = {
        "default_permission": "NO_PERMISSIONS",
        "authorization_function": "pipeline_assets.local_stack.mlflow_login:authenticate",
        "database_uri": sqlalchemy_url(DSN, plan.settings[DSN], "psycopg").replace("%", "%%"),
        # Each request would hash the password anew, which takes longer than most answers.
        "auth_cache_ttl_seconds": str(CHECKED_SECONDS),
    }
    text = StringIO()
    login.write(text)
    write_private(private_folder(plan.home / MLFLOW) / "login.ini", text.getvalue())


def _settings(plan: Plan) -> dict[str, str]:
    """Its address and the login; that is not for a server elsewhere, which should not get it."""
    login = {} if URL in plan.given else {USER: CALLER, PASSWORD: plan.secrets[LOGIN]}
    return {URL: url(plan.ports[MLFLOW]), **login}


def url(port: int) -> str:
    """The address of the server."""
    return f"http://{HOST}:{port}"


DESCRIPTION = Description(
    name=MLFLOW,
    build=service,
    ports={MLFLOW: 5000},
    secrets=(LOGIN, SIGNING),
    settings=_settings,
    is_elsewhere=has(URL),
    together=((USER, PASSWORD), (PASSWORD, USER)),
    needs=(POSTGRES,),
    is_page=True,
)
