"""What is fixed about one call, on whatever back end it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from .._scan_options import ScanOptions
from ..cells import CELLS, CellSpec
from ._packed import Packing

__all__ = ["Call", "plain_call"]


@dataclass(frozen=True)
class Call:
    """What is fixed about one call beside its tensors.

    The tensors of a call stand in a row: x, the S initial states (D*L, B, H), the S replacements of
    resets, and the weights in the order of PyTorch's flat list. What is None is zero.
    """

    cell: str
    L: int
    D: int
    bias: bool
    batch_first: bool = False
    dropout: float = 0.0
    """Probability of a zero between layers; 0 where not training."""
    packing: Packing | None = None
    """Where x is the data of a PackedSequence."""
    options: ScanOptions | None = None
    """Of layer 0, without `layer`, `reset_state` and `cu_seqlens`, which follow from the rest."""
    want_y: bool = True
    """Whether y is returned, or only the final states."""
    want_states: bool = False
    """Whether all states and gates are returned too."""
    own_y: bool = False
    """Whether the tape has a y of its own in any case."""

    @cached_property
    def spec(self) -> CellSpec:
        """The registry row of the cell."""
        return CELLS[self.cell]

    @cached_property
    def S(self) -> int:
        """Number of states."""
        return self.spec.S

    @cached_property
    def plain(self) -> bool:
        """Whether a back end is given no options."""
        return self.options is None and self.packing is None

    def split(self, tensors: Sequence[Any]) -> tuple[Any, tuple, tuple, tuple]:
        """Split the row of tensors into x, states, replacements and weights."""
        S = self.S
        return (
            tensors[0],
            tuple(tensors[1 : 1 + S]),
            tuple(tensors[1 + S : 1 + 2 * S]),
            tuple(tensors[1 + 2 * S :]),
        )

    def of_layer(self, k: int, resets: tuple[Any, ...] | None) -> ScanOptions | None:
        """Return the options of layer k, whose replacements (D, T or 1, B, H) are given."""
        options = self.options
        flat = None if self.packing is None else self.packing.cu_seqlens
        if options is None:
            return None if flat is None else ScanOptions(cu_seqlens=flat)
        return options._replace(layer=k, reset_state=resets, cu_seqlens=flat)


plain_call = lru_cache(256)(Call)
"""A call that may have been made before."""
