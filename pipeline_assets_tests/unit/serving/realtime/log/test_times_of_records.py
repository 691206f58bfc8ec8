"""The times that records of the log have in their topic."""

from datetime import UTC, datetime
from pathlib import Path

from pipeline_assets.core.settings import BrokerSettings
from pipeline_assets.serving.realtime.log.spool import Spool
from pipeline_assets.serving.realtime.log.writer import PredictionLog
from pipeline_assets_tests.logged_predictions import logged
from pipeline_assets_tests.stream_records import until

NOWHERE = BrokerSettings.model_construct(home=Path(), kafka_bootstrap="127.0.0.1:9")


def test_what_is_logged_again_at_once_is_later(tmp_path: Path) -> None:
    """Regression: a client that asked again at once left two versions of one time, which the contract of the log refuses."""
    log = PredictionLog(NOWHERE, tmp_path / "spool", "nothing")
    log.put([logged(number, asked_at=datetime.now(UTC)) for number in (1, 1, 2, 1)])
    until(log.counts, lambda found: found.spooled == 4, seconds=10)
    log.close(0)
    (path,) = (tmp_path / "spool").glob("*/*.spool")
    spool = Spool(folder=tmp_path, limit_bytes=1 << 20, segment_bytes=1 << 20)
    spool.adopt(path)
    times = [(record.key, record.at_ms) for record, _ in spool.read(10)]

    assert len(times) == len(set(times)) == 4
    assert [at for key, at in times if key == times[0][0]] == sorted(at for key, at in times if key == times[0][0])
