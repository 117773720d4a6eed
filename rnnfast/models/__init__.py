"""Ready models of sequences, with the conventions of scikit-learn.

====================  ====================================  ============================
`SequenceClassifier`  a class for each sequence             many to one
`SequenceRegressor`   numbers for each sequence             many to one
`SequenceTagger`      a label for each step                 many to many, equal length
`SequenceGenerator`   a sequence from a class, a vector     one to many
                      or its own beginning
`Seq2Seq`             a sequence from a sequence            many to many, unequal length
`Forecaster`          what comes next in a time series      many to one, or to several
====================  ====================================  ============================

Needs what ``pip install "rnnfast[models]"`` brings.
"""

try:
    from ._base import SequenceModel
    from .classifier import SequenceClassifier
    from .forecaster import Forecaster
    from .generator import SequenceGenerator
    from .regressor import SequenceRegressor
    from .seq2seq import Seq2Seq
    from .tagger import SequenceTagger
    from .vocabulary import Vocabulary, words
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("sklearn", "safetensors", "tqdm"):
        raise
    raise ModuleNotFoundError(
        f"rnnfast.models needs {error.name}, which is not installed. "
        'Install it with: pip install "rnnfast[models]"',
        name=error.name,
    ) from error

__all__ = [
    "Forecaster",
    "Seq2Seq",
    "SequenceClassifier",
    "SequenceGenerator",
    "SequenceModel",
    "SequenceRegressor",
    "SequenceTagger",
    "Vocabulary",
    "words",
]
