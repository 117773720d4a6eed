"""Tapes kept by autograd's own means.

Whatever is saved for backward as a tensor is freed, offloaded or computed anew by PyTorch's rules:
freed at the end of a backward pass, dropped and recomputed under activation checkpointing. A tape
is no tensor; so it hangs on the memory of a tensor of one byte. Where that memory is no more, for
a hook has put a copy in its place, the tapes are gone too and forward is run again.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["find", "keep"]


class _Token(np.ndarray):
    """One byte that owns tapes; `torch.from_numpy` holds on to it as long as there is a view."""

    tapes: list[Any]
    places: list[int]


# By address: two tokens that live at once have different ones.
_tokens: weakref.WeakValueDictionary[int, _Token] = weakref.WeakValueDictionary()


def keep(tapes: list[Any], tensors: Sequence[Tensor | None]) -> Tensor:
    """Return a tensor that owns the tapes, which lean on the memory of these tensors."""
    token = np.zeros(1, np.uint8).view(_Token)
    token.tapes, token.places = tapes, _places(tensors)
    tensor = torch.from_numpy(token)
    _tokens[tensor.data_ptr()] = token
    return tensor


def find(tensor: Tensor, tensors: Sequence[Tensor | None]) -> list[Any] | None:
    """Return the tapes that `keep` was given; None for a copy, or if the tensors have moved.

    To share a tensor among processes moves its memory, and what lay there before is gone.
    """
    token = _tokens.get(tensor.data_ptr())
    return None if token is None or token.places != _places(tensors) else token.tapes


def _places(tensors: Sequence[Tensor | None]) -> list[int]:
    return [t.data_ptr() for t in tensors if t is not None]
