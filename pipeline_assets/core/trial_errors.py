"""The errors of versions that are tried beside the live one."""

from pipeline_assets.core.errors import PipelineError


class TrialConflict(PipelineError):
    """Another decision came first: what is tried of the model is not what was expected."""

    def __init__(self, model: str, expected: str, found: str) -> None:
        self.model, self.expected, self.found = model, expected, found
        super().__init__(
            f"Model '{model}': expected that {expected}, but {found}. Nothing was written. "
            "Look at `pipeline models history`, then try again."
        )
