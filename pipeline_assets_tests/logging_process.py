"""A process that logs predictions, to be killed: `python -m pipeline_assets_tests.logging_process HOME FOLDER TOPIC FIRST`.

It logs predictions from the number FIRST on, as long as it lives, and ten times a second it writes a line with its counts.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from threading import Event

from pipeline_assets.core.settings import BrokerSettings, read_part
from pipeline_assets.serving.realtime.log.writer import PredictionLog
from pipeline_assets_tests.logged_predictions import logged

PER_TURN, PAUSE_SECONDS = 50, 0.1


def main(home: str, folder: str, topic: str, first: str) -> None:
    """Logs until it is killed."""
    log, number, pause = PredictionLog(read_part(BrokerSettings, Path(home)), Path(folder), topic), int(first), Event()
    while True:
        log.put([logged(one) for one in range(number, number + PER_TURN)])
        number += PER_TURN
        pause.wait(PAUSE_SECONDS)
        sys.stdout.write(json.dumps(asdict(log.counts()), default=str) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
