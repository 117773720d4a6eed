"""What a language model needs to train without a framework.

Losses, optimisers, clipping and two small layers, all on NumPy arrays. `Linear` uses the compiled
GEMM where it is built, so that its bits do not depend on batch or threads either.
"""

from .clip import clip_by_global_norm, clip_by_value
from .embedding import Embedding
from .linear import Linear
from .losses import softmax_cross_entropy, squared_error
from .optim import SGD, Adam

__all__ = [
    "SGD",
    "Adam",
    "Embedding",
    "Linear",
    "clip_by_global_norm",
    "clip_by_value",
    "softmax_cross_entropy",
    "squared_error",
]
