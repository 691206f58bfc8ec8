"""Services that are reached by https, with one file of authorities for all: the right one works, and another is refused by its setting."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from botocore.exceptions import SSLError
from pydantic import SecretStr

from pipeline_assets.core import names
from pipeline_assets.core.connections import arrow_files, catalog, object_store, tracking
from pipeline_assets.core.errors import SettingsMalformed
from pipeline_assets.core.https import AUTHORITY
from pipeline_assets.core.setting_values import FileFolder
from pipeline_assets.core.settings import FolderSettings, ServiceReader, Settings
from pipeline_assets.core.versions import versioned
from pipeline_assets.ingestion.batch.files import folder_of
from pipeline_assets.ingestion.batch.load import stage_days
from pipeline_assets.ingestion.streaming.capture.connect import open_connect
from pipeline_assets.processing.lake import tables
from pipeline_assets.serving.realtime.health.look import Unread, look
from pipeline_assets.spec.sources import CsvFile, Files
from pipeline_assets_tests.readings import World, day, reading
from pipeline_assets_tests.tls import HOST, Authority, https_before, server_context

WRONG_HOST = "127.0.0.2"
Secured = Callable[[str], str]


@pytest.fixture
def secured(trusted: Authority, tmp_path: Path) -> Iterator[Secured]:
    """A function that gives the https address of a server before a service at an http address."""
    with ExitStack() as servers:

        def before(url: str) -> str:
            port = servers.enter_context(https_before(int(urlsplit(url).port or 0), server_context(tmp_path, trusted, HOST)))
            return f"https://{HOST}:{port}"

        yield before


def by(authority: Authority | None, settings: Settings, **addresses: str) -> Settings:
    """Settings with other addresses, and an authority (None: none)."""
    return settings.model_copy(update={**addresses, "https_authority": None if authority is None else authority.certificate})


def refused(setting: str) -> str:
    """What an error says of a certificate that another authority has signed."""
    return rf"{AUTHORITY} does not fit the certificate of {setting} \(https://.*unable to get local issuer certificate"


def test_rows_go_to_the_lake_and_back_over_https(isolated: Settings, secured: Secured, trusted: Authority) -> None:
    """Staged, published and read: by boto, by Arrow and by pyiceberg."""
    settings = by(trusted, isolated, s3_endpoint=secured(isolated.s3_endpoint))
    world = World(settings=settings, name="readings")
    world.fill([reading(), reading(sensor="b2")])
    stage_days(settings, world.table, day(0), day(0), run_id="r")
    tables.publish_days(settings, versioned(world.contract), day(0), day(0))

    assert tables.read_all(settings, names.lake("readings")).read_all().num_rows == 2


@pytest.mark.parametrize("connect", [object_store, arrow_files, catalog])
def test_a_store_of_another_authority_is_refused_by_the_setting(
    stores: Settings, secured: Secured, stranger: Authority, connect: Callable[[Settings], object]
) -> None:
    """Whichever library is to reach it; nothing was sent to it before."""
    with pytest.raises(SettingsMalformed, match=refused("PIPELINE_S3_ENDPOINT")):
        connect(by(stranger, stores, s3_endpoint=secured(stores.s3_endpoint)))


def test_the_clients_of_the_store_verify_by_themselves(stores: Settings, secured: Secured) -> None:
    """Without a file they trust whom they trust anyway, which is not somebody's own authority."""
    settings = by(None, stores, s3_endpoint=secured(stores.s3_endpoint))

    with pytest.raises(SSLError, match="certificate verify failed"):
        object_store(settings).list_buckets()
    with pytest.raises(OSError, match="curlCode: 60"):
        arrow_files(settings).get_file_info(settings.s3_bucket)


def test_files_of_a_source_come_from_a_store_of_their_own_over_https(
    stores: Settings, secured: Secured, trusted: Authority, stranger: Authority
) -> None:
    """The endpoint of a folder is held against the same file."""
    object_store(stores).put_object(Bucket=stores.s3_bucket, Key="handed-in/a.csv", Body=b"x\n1\n")
    folder = FileFolder(
        url=f"s3://{stores.s3_bucket}/handed-in",
        endpoint=secured(stores.s3_endpoint),
        region=stores.s3_region,
        access_key=stores.s3_access_key,
        secret_key=stores.s3_secret_key,
    )
    origin, contract = Files(folder="inbox", pattern="*.csv", format=CsvFile()), World(settings=stores, name="inbox").contract
    right, wrong = (FolderSettings(folders={"inbox": folder}, https_authority=one.certificate) for one in (trusted, stranger))

    assert [each.path for each in folder_of(right, contract, origin).found()] == ["a.csv"]
    with pytest.raises(SettingsMalformed, match=refused("PIPELINE_FOLDERS__INBOX__ENDPOINT")):
        folder_of(wrong, contract, origin)


def test_mlflow_is_asked_over_https(
    stack: Settings, secured: Secured, trusted: Authority, stranger: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Runs and their files go there with the right authority; with another no request is made."""
    # It is set for the process, and is to be gone after the test.
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", "")
    url = secured(stack.mlflow_url)
    client = tracking(by(trusted, stack, mlflow_url=url))
    experiment = client.create_experiment(f"https {datetime.now(UTC).isoformat()}")
    run = client.create_run(experiment)
    (tmp_path / "note.txt").write_text("over TLS")
    client.log_artifact(run.info.run_id, str(tmp_path / "note.txt"))

    assert [one.path for one in client.list_artifacts(run.info.run_id)] == ["note.txt"]
    with pytest.raises(SettingsMalformed, match=refused("PIPELINE_MLFLOW_URL")):
        tracking(by(stranger, stack, mlflow_url=url))


def test_kafka_connect_is_asked_over_https(streams: Settings, secured: Secured, trusted: Authority, stranger: Authority) -> None:
    """Its REST interface, with the login."""
    url = secured(streams.connect_url)
    with open_connect(by(trusted, streams, connect_url=url)) as connect:
        assert connect.plugins()
    with pytest.raises(SettingsMalformed, match=refused("PIPELINE_CONNECT_URL")), open_connect(by(stranger, streams, connect_url=url)):
        pass


def test_a_prediction_service_of_another_authority_is_what_its_check_says(
    isolated: Settings, secured: Secured, trusted: Authority, stranger: Authority
) -> None:
    """The key is sent to no other than the one whose certificate fits."""
    # Whatever answers there: it is not the service, and says so with a status of HTTP.
    url, key = secured(isolated.s3_endpoint), SecretStr("key")
    right, wrong = (
        look(ServiceReader(serve_url=url, serve_read_key=key, https_authority=one.certificate), isolated, {}).found
        for one in (trusted, stranger)
    )

    assert isinstance(right, Unread)
    assert right.problem.startswith((f"{url}/v1/service answers ", f"{url}/v1/service refuses the key"))
    assert isinstance(wrong, Unread)
    assert f"{AUTHORITY} does not fit the certificate of PIPELINE_SERVE_URL ({url})" in wrong.problem


def test_a_certificate_for_another_host_is_refused(stores: Settings, trusted: Authority, tmp_path: Path) -> None:
    """The name is compared, too."""
    port = int(urlsplit(stores.s3_endpoint).port or 0)
    refusal = pytest.raises(SettingsMalformed, match=r"PIPELINE_S3_ENDPOINT .*IP address mismatch")
    with https_before(port, server_context(tmp_path, trusted, WRONG_HOST)) as wrong, refusal:
        object_store(by(trusted, stores, s3_endpoint=f"https://{HOST}:{wrong}"))


@pytest.mark.parametrize("content", [None, "", "-----BEGIN CERTIFICATE-----\nno certificate\n"])
def test_a_file_that_has_no_authority_is_named(stores: Settings, tmp_path: Path, content: str | None) -> None:
    """One that is not there, is empty, or is no PEM file."""
    file = tmp_path / "authority.pem"
    if content is not None:
        file.write_text(content)

    with pytest.raises(SettingsMalformed, match=rf"{AUTHORITY} cannot be used: .*authority\.pem"):
        object_store(stores.model_copy(update={"s3_endpoint": "https://127.0.0.1:1", "https_authority": file}))


def test_a_service_that_is_away_is_said_by_its_client(streams: Settings, trusted: Authority) -> None:
    """No certificate was seen, so none is wrong."""
    with open_connect(by(trusted, streams, connect_url="https://127.0.0.1:1")) as connect, pytest.raises(httpx.ConnectError):
        connect.client.get("/")
