"""Tapes kept by autograd's own means.

Whatever is saved for backward as a tensor is freed, offloaded or computed anew by PyTorch's rules:
freed at the end of a backward pass, dropped and recomputed under activation checkpointing. A tape
is no tensor; so it hangs on the memory of a tensor of one byte. Where that memory is no more, for
a hook has put a copy in its place, the tapes are gone too and forward is run again.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["find", "keep"]


class _Token(np.ndarray):
    """One byte that owns tapes; `torch.from_numpy` holds on to it as long as there is a view."""

    tapes: list[Any]


# By address: two tokens that live at once have different ones.
_tokens: weakref.WeakValueDictionary[int, _Token] = weakref.WeakValueDictionary()


def keep(tapes: list[Any]) -> Tensor:
    """Return a tensor that owns the tapes."""
    token = np.zeros(1, np.uint8).view(_Token)
    token.tapes = tapes
    tensor = torch.from_numpy(token)
    _tokens[tensor.data_ptr()] = token
    return tensor


def find(tensor: Tensor) -> list[Any] | None:
    """Return the tapes that `keep` was given; None for a copy."""
    token = _tokens.get(tensor.data_ptr())
    return None if token is None else token.tapes
