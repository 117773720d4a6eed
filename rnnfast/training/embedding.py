"""A table of vectors, looked up by index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _values
from .._indexed import IndexedRows
from .._shapes import Checker, check_index_range, is_index_array
from ..errors import DTypeError, ShapeError
from ._layer import Layer, check_sizes

_WHO = "rnnfast.training.Embedding"


@dataclass(frozen=True)
class EmbeddingTape:
    """What the backward pass needs: the indices looked up, copied."""

    indices: np.ndarray


@dataclass(frozen=True)
class EmbeddingGradients:
    """The result of `Embedding.backward`: `parameters` by name."""

    parameters: dict[str, IndexedRows]


class Embedding(Layer):
    """Look up a row of a table for every index: ``y = weight[x]``.

    An rnnfast layer takes indices itself and saves this step: an embedding pays where its dimension
    is well below the layer's ``G*H``, where several layers share it, or where it comes trained.

    Parameters
    ----------
    num_embeddings : int
        V, the number of indices.
    embedding_dim : int
        E, the length of a row.
    dtype : {"float32", "float64"}, default "float32"
    seed : int, optional
        Of the initial values; default unpredictable.

    Attributes
    ----------
    parameters : dict
        ``"weight"`` (V, E), from the standard normal distribution, as ``torch.nn.Embedding``.

    Raises
    ------
    DTypeError, ArgumentError
        If a size is not an integer of 1 or more, `seed` not one of 0 or more, or `dtype` another.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        dtype: Any = "float32",
        seed: int | None = None,
    ) -> None:
        check_sizes(_WHO, num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        rng = _values.generator(_WHO, seed)
        self._start(dtype, {"weight": rng.standard_normal((num_embeddings, embedding_dim))})

    def __repr__(self) -> str:
        V, E = self.parameters["weight"].shape
        return f"Embedding({V}, {E}, dtype={self.parameters['weight'].dtype.name!r})"

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Look up without a tape: as `forward`, only y."""
        return self.parameters["weight"][self._indices(x)]

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, EmbeddingTape]:
        """Look up and keep the tape.

        Parameters
        ----------
        x : (...) int
            Indices in ``[0, V)``.

        Returns
        -------
        y : (..., E)
        tape : EmbeddingTape

        Raises
        ------
        DTypeError
            If `x` is no integer array.
        IndexRangeError
            If an index is out of range; the message names it and its place.
        """
        indices = self._indices(x)
        return self.parameters["weight"][indices], EmbeddingTape(indices.copy())

    def backward(self, tape: EmbeddingTape, dy: np.ndarray) -> EmbeddingGradients:
        """Return the gradient of the table, as the rows that were looked up.

        Parameters
        ----------
        tape : EmbeddingTape
            Of the forward call; used any number of times.
        dy : (..., E)
            The gradient of y.

        Returns
        -------
        EmbeddingGradients
            ``parameters["weight"]`` an `IndexedRows` along axis 0. Rows looked up more than once
            are summed in the order of `x`, so the bits are the same on every run.

        Raises
        ------
        ShapeError, DTypeError
            If `dy` has not the shape of y and the dtype of the table.
        """
        weight = self.parameters["weight"]
        V, E = weight.shape
        if not isinstance(dy, np.ndarray) or dy.shape[:-1] != tape.indices.shape:
            got = dy.shape if isinstance(dy, np.ndarray) else type(dy).__name__
            raise ShapeError(
                f"{_WHO}: dy has shape {got}, expected {(*tape.indices.shape, E)}; x from the tape."
            )
        check = Checker(_WHO, (weight.dtype, "weight"), E=(E, "weight"))
        dy = check.block("dy", dy.reshape(-1, dy.shape[-1]), "N E")
        indices, places = np.unique(tape.indices, return_inverse=True)
        rows = np.zeros((len(indices), E), weight.dtype)
        np.add.at(rows, places.reshape(-1), dy)
        return EmbeddingGradients({"weight": IndexedRows(indices, rows, (V, E), axis=0)})

    def _indices(self, x: np.ndarray) -> np.ndarray:
        if not is_index_array(x):
            kind = x.dtype if isinstance(x, np.ndarray) else f"of type {type(x).__name__}"
            raise DTypeError(f"{_WHO}: x is {kind}, expected an integer array of indices.")
        return check_index_range(_WHO, "x", x, len(self.parameters["weight"]), "weight")
