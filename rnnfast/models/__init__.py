"""Ready models of sequences, with the conventions of scikit-learn.

===================  =============================================  ==================
`SequenceClassifier`  a class for each sequence                      many to one
`SequenceRegressor`   numbers for each sequence                      many to one
===================  =============================================  ==================

Needs what ``pip install "rnnfast[models]"`` brings.
"""

try:
    from .classifier import SequenceClassifier
    from .regressor import SequenceRegressor
    from .vocabulary import Vocabulary, words
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("sklearn", "safetensors", "tqdm"):
        raise
    raise ModuleNotFoundError(
        f"rnnfast.models needs {error.name}, which is not installed. "
        'Install it with: pip install "rnnfast[models]"',
        name=error.name,
    ) from error

__all__ = ["SequenceClassifier", "SequenceRegressor", "Vocabulary", "words"]
