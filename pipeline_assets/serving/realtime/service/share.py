"""Which entities a canary answers: by a hash, so that every process gives the same answer, also after a restart.

The hash is salted with the model, the version and the entry of the ledger by which the canary began: other entities are the first to meet
each canary, and of one canary a larger share only adds entities.
"""

from hashlib import blake2b, sha256

import msgspec
import pyarrow as pa

from pipeline_assets.core.names import DECISION_AT
from pipeline_assets.model_lifecycle.feature_store.spine import entity_keys
from pipeline_assets.model_lifecycle.registry.ledger import Trial
from pipeline_assets.spec.models import Model

HASH_BYTES = 8
SPACE = 2 ** (8 * HASH_BYTES)
ENCODER = msgspec.json.Encoder()


def rows_of_share(model: Model, trial: Trial, questions: pa.Table) -> frozenset[int]:
    """The rows of typed questions whose entities a canary answers; none of a shadow.

    An entity is all entity keys of the model together; a model without entities has one for each combination of what is asked.
    """
    if trial.share is None:
        return frozenset()
    key = sha256(f"{model.name}/{trial.version}/{trial.began}".encode()).digest()
    return frozenset(row for row, entity in enumerate(_entities(model, questions)) if _number(entity, key) < trial.share * SPACE)


def _entities(model: Model, questions: pa.Table) -> list[tuple[object, ...]]:
    names = entity_keys(model) or [name for name in questions.column_names if name != DECISION_AT]
    return list(zip(*(questions[name].to_pylist() for name in names), strict=True))


def _number(entity: tuple[object, ...], key: bytes) -> int:
    return int.from_bytes(blake2b(ENCODER.encode(entity), key=key, digest_size=HASH_BYTES).digest())
