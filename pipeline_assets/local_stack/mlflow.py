"""The MLflow server: runs and versions in Postgres, artifacts passed through to the object store."""

import sys
from functools import partial

from pipeline_assets.core.dsn import sqlalchemy_url
from pipeline_assets.local_stack.http import answers
from pipeline_assets.local_stack.plan import HOST, MLFLOW, POSTGRES, Description, Plan, Service, has, setting

URL, DSN = setting("mlflow_url"), setting("mlflow_dsn")
WORKERS = 1


def service(plan: Plan) -> Service:
    """The MLflow server of the stack; its secrets are in its environment, not on its command line."""
    port, settings = plan.ports[MLFLOW], plan.settings
    return Service(
        name=MLFLOW,
        command=(sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", str(WORKERS)),
        folder=plan.home,
        environment={
            "MLFLOW_BACKEND_STORE_URI": sqlalchemy_url(DSN, settings[DSN], "psycopg"),
            "MLFLOW_SERVE_ARTIFACTS": "true",
            "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{settings['PIPELINE_S3_BUCKET']}/mlflow",
            "MLFLOW_S3_ENDPOINT_URL": settings["PIPELINE_S3_ENDPOINT"],
            "AWS_DEFAULT_REGION": settings["PIPELINE_S3_REGION"],
            "AWS_ACCESS_KEY_ID": settings["PIPELINE_S3_ACCESS_KEY"],
            "AWS_SECRET_ACCESS_KEY": settings["PIPELINE_S3_SECRET_KEY"],
            # No agents or language models are judged here: their job queue would only cost memory.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        },
        port=port,
        url=url(port),
        is_ready=partial(answers, f"{url(port)}/health"),
    )


def url(port: int) -> str:
    """The address of the server."""
    return f"http://{HOST}:{port}"


DESCRIPTION = Description(
    name=MLFLOW,
    build=service,
    ports={MLFLOW: 5000},
    settings=lambda plan: {URL: url(plan.ports[MLFLOW])},
    is_elsewhere=has(URL),
    needs=(POSTGRES,),
    is_page=True,
)
