"""The object store: S3Proxy over a folder, on the Java runtime of a wheel, from one jar that is downloaded once and checked."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_assets.local_stack import java
from pipeline_assets.local_stack.plan import HOST, S3, Description, Ending, Plan, Service, has, private_folder, setting, write_private
from pipeline_assets.local_stack.ports import is_listening

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ENDPOINT, REGION, BUCKET, ACCESS_KEY, SECRET_KEY = (
    setting(f"s3_{name}") for name in ("endpoint", "region", "bucket", "access_key", "secret_key")
)
# MLflow has keys of its own, for its objects alone.
MLFLOW_ACCESS_KEY, MLFLOW_SECRET_KEY, MLFLOW_PREFIX, MLFLOW_BUCKET = "mlflow_s3_access_key", "mlflow_s3_secret_key", "mlflow", "artifacts"
OWN, OF_MLFLOW, LOGGING = "s3proxy.conf", "s3proxy-mlflow.conf", "logback.xml"
MAIN = "org.gaul.s3proxy.Main"
MEMORY_MB = 256
JARS = (java.OBJECT_STORE,)
# Without it the server logs every request.
LOGBACK = """<configuration>
  <appender name="OUT" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%d{yyyy-MM-dd'T'HH:mm:ss.SSS'Z',UTC} %-5level %logger{20} %msg%n</pattern></encoder>
  </appender>
  <root level="WARN"><appender-ref ref="OUT"/></root>
</configuration>
"""


def service(plan: Plan) -> Service:
    """The object store of the stack, with its bucket."""
    folder = plan.home / S3
    return Service(
        name=S3,
        command=java.command(
            MEMORY_MB, {"logback.configurationFile": LOGGING}, "-cp", java.class_path(plan.jars, JARS), MAIN,
            *(part for name in (OWN, OF_MLFLOW) for part in ("--properties", name)),
        ),
        folder=folder,
        environment=java.ENVIRONMENT,
        port=plan.ports[S3],
        url=endpoint(plan.ports[S3]),
        is_ready=lambda _since: is_listening(plan.ports[S3]),
        prepare=partial(prepare, plan, folder),
        finish=partial(create_bucket, plan),
    )  # fmt: skip


def settings(plan: Plan) -> dict[str, str]:
    """What the object store hands out."""
    return {
        ENDPOINT: endpoint(plan.ports[S3]),
        REGION: "us-east-1",
        BUCKET: "pipeline",
        ACCESS_KEY: plan.secrets["s3_access_key"],
        SECRET_KEY: plan.secrets["s3_secret_key"],
    }


def endpoint(port: int) -> str:
    """The URL of the object store."""
    return f"http://{HOST}:{port}"


def prepare(plan: Plan, folder: Path) -> None:
    """Check the jar, and write the configuration."""
    private_folder(folder / "data")
    java.check(plan, JARS)
    (folder / LOGGING).write_text(LOGBACK, encoding="utf-8")
    common = {
        "s3proxy.endpoint": endpoint(plan.ports[S3]),
        "s3proxy.authorization": "aws-v2-or-v4",
        "jclouds.provider": "filesystem-nio2",
    }
    own = {
        "s3proxy.identity": plan.settings[ACCESS_KEY],
        "s3proxy.credential": plan.settings[SECRET_KEY],
        "jclouds.filesystem.basedir": str(folder / "data"),
    }
    of_mlflow = {
        "s3proxy.identity": plan.secrets[MLFLOW_ACCESS_KEY],
        "s3proxy.credential": plan.secrets[MLFLOW_SECRET_KEY],
        "jclouds.filesystem.basedir": str(folder_of_mlflow(plan, folder)),
    }
    for name, properties in ((OWN, own), (OF_MLFLOW, of_mlflow)):
        write_private(folder / name, java.properties_text({**common, **properties}))


def folder_of_mlflow(plan: Plan, folder: Path) -> Path:
    """A folder whose one bucket is a link to MLflow's objects in the bucket of the platform.

    A prefix of S3Proxy would not do: a key with `..` leads out of it, and all other buckets are open. Out of a bucket no key leads.
    """
    private_folder(folder / "data" / plan.settings[BUCKET] / MLFLOW_PREFIX)
    link, draft = private_folder(folder / "mlflow") / MLFLOW_BUCKET, folder / "mlflow.new"
    draft.unlink(missing_ok=True)
    draft.symlink_to(Path("..", "data", plan.settings[BUCKET], MLFLOW_PREFIX), target_is_directory=True)
    # At no moment is there none, so MLflow has its bucket also after a crash here.
    draft.replace(link)
    return link.parent


def of_mlflow(plan: Plan) -> tuple[str, str, str]:
    """Access key, secret key and URL for MLflow's objects: of its own in the store of the stack, else those that are given."""
    if ENDPOINT in plan.given:
        return plan.settings[ACCESS_KEY], plan.settings[SECRET_KEY], f"s3://{plan.settings[BUCKET]}/{MLFLOW_PREFIX}"
    return plan.secrets[MLFLOW_ACCESS_KEY], plan.secrets[MLFLOW_SECRET_KEY], f"s3://{MLFLOW_BUCKET}"


def create_bucket(plan: Plan) -> None:
    """Make the bucket of the platform; one that is there stays as it is."""
    client = connect(plan)
    known = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    if plan.settings[BUCKET] not in known:
        client.create_bucket(Bucket=plan.settings[BUCKET])


def connect(plan: Plan) -> "S3Client":
    """A client of the object store, before the settings are complete."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=plan.settings[ENDPOINT],
        region_name=plan.settings[REGION],
        aws_access_key_id=plan.settings[ACCESS_KEY],
        aws_secret_access_key=plan.settings[SECRET_KEY],
        config=Config(s3={"addressing_style": "path"}, retries={"mode": "standard"}),
    )


DESCRIPTION = Description(
    name=S3,
    build=service,
    ports={S3: 9000},
    secrets=("s3_access_key", "s3_secret_key", MLFLOW_ACCESS_KEY, MLFLOW_SECRET_KEY),
    settings=settings,
    is_elsewhere=has(ENDPOINT),
    together=((ENDPOINT, REGION, BUCKET, ACCESS_KEY, SECRET_KEY),),
    jars=JARS,
    ending=Ending(turn=2),
)
