"""Recurrent networks over whole sequences, forward and back through time, on NumPy arrays."""

from __future__ import annotations

from . import initializers, options, reference, weights
from ._backend import backends, get_num_threads, last_kernel, set_num_threads
from ._forms import States
from ._indexed import IndexedRows
from .cells import CELLS, CellSpec
from .errors import (
    ArgumentError,
    DeviceError,
    DTypeError,
    FallbackWarning,
    IndexRangeError,
    ShapeError,
    TapeError,
)
from .layers import GRU, LSTM, RNN, LayerGradients, PreparedLayer
from .ops import (
    Gradients,
    Tape,
    gru,
    gru_backward,
    gru_forward,
    lstm,
    lstm_backward,
    lstm_forward,
    rnn,
    rnn_backward,
    rnn_forward,
)
from .stream import Stream

__version__ = "0.1.0"

__all__ = [
    "CELLS",
    "GRU",
    "LSTM",
    "RNN",
    "ArgumentError",
    "CellSpec",
    "DTypeError",
    "DeviceError",
    "FallbackWarning",
    "Gradients",
    "IndexRangeError",
    "IndexedRows",
    "LayerGradients",
    "PreparedLayer",
    "ShapeError",
    "States",
    "Stream",
    "Tape",
    "TapeError",
    "backends",
    "get_num_threads",
    "gru",
    "gru_backward",
    "gru_forward",
    "initializers",
    "last_kernel",
    "lstm",
    "lstm_backward",
    "lstm_forward",
    "options",
    "reference",
    "rnn",
    "rnn_backward",
    "rnn_forward",
    "set_num_threads",
    "weights",
]
