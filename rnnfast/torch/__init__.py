"""rnnfast for PyTorch: `torch.nn`'s recurrent layers and cells, on our kernels."""

from __future__ import annotations

try:
    import torch as _torch  # noqa: F401 - for its absence to be said in words
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError(
        "rnnfast.torch needs PyTorch, which is not installed: pip install 'rnnfast[torch]'.",
        name="torch",
    ) from error

from ._cells import GRUCell, LSTMCell, RNNCell
from ._dispatch import dispatch_counts, last_reason
from ._layers import GRU, LSTM, RNN
from ._options import States
from ._swap import accelerate, restore

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "GRUCell",
    "LSTMCell",
    "RNNCell",
    "States",
    "accelerate",
    "dispatch_counts",
    "last_reason",
    "restore",
]
