"""Packed sequences: PyTorch's rows lie step after step, ours row after row."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from . import _cuda_device

__all__ = ["Packing"]


class Packing:
    """How the data of a PackedSequence are put row after row.

    Attributes
    ----------
    cu_seqlens : (B+1,) int64
        Where each row begins.
    rows : (N,) tensor
        ``data[rows]`` is row after row.
    places : (N,) tensor
        The way back.
    """

    __slots__ = ("B", "cu_seqlens", "places", "rows", "sizes")

    def __init__(self, batch_sizes: Tensor) -> None:
        sizes = batch_sizes.numpy()
        self.sizes = batch_sizes
        self.B = int(sizes[0])
        # Row b has the steps in which more than b rows are left; sizes fall.
        lengths = len(sizes) - np.searchsorted(sizes[::-1], np.arange(self.B), side="right")
        self.cu_seqlens = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        begin = np.cumsum(sizes) - sizes
        row = np.repeat(np.arange(self.B), lengths)
        step = np.arange(len(row)) - self.cu_seqlens[row]
        order = begin[step] + row
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        self.rows, self.places = torch.from_numpy(order), torch.from_numpy(back)

    def beside(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return `rows`, `places`, the lengths of rows and where they begin, on the device of x."""
        begin = self.cu_seqlens
        arrays = (self.rows.numpy(), self.places.numpy(), np.diff(begin), begin[:-1])
        return tuple(_cuda_device.put(a, x) for a in arrays)
