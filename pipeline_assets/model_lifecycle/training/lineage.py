"""Which columns the columns of a training set are: the vectors, and the label."""

from pipeline_assets.core import names
from pipeline_assets.core.names import AssetName
from pipeline_assets.model_lifecycle.feature_store.lineage import vector_lineage
from pipeline_assets.model_lifecycle.training.dataset import BLOCK, LABEL, LABEL_KNOWN_AT
from pipeline_assets.spec.models import Model


def training_set_lineage(model: Model) -> dict[str, tuple[tuple[AssetName, str], ...]]:
    """Column of a model's training set → the (table, column) pairs that it comes from; the block follows from the time of the decision."""
    vectors, label = names.vectors(model.name), names.cleaned(model.label.table)
    return {
        **{column: ((vectors, column),) for column in vector_lineage(model)},
        LABEL: ((label, model.label.column),),
        LABEL_KNOWN_AT: ((label, model.label.known_at),),
        BLOCK: ((vectors, model.observations.decision_at),),
    }
