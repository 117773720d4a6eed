"""Optimisers: they change parameters in place, in a few passes over preallocated memory."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np

from .._indexed import IndexedRows
from ..errors import ArgumentError, DTypeError, ShapeError

Gradients = Mapping[str, "np.ndarray | IndexedRows"]


class Optimizer(ABC):
    """What SGD and Adam share: named parameters, their slots, the step count, saving and loading.

    A subclass names its `slots` (arrays kept per parameter, zero at first) and states the update of
    one array.
    """

    slots: tuple[str, ...] = ()

    def __init__(self, parameters: Mapping[str, np.ndarray], lr: float) -> None:
        for name, array in parameters.items():
            if not isinstance(array, np.ndarray) or array.dtype not in (np.float32, np.float64):
                kind = array.dtype if isinstance(array, np.ndarray) else f"a {type(array).__name__}"
                raise DTypeError(
                    f"{self._speaker}: {name} is {kind}; expected a float32 or float64 array."
                )
            if not array.flags.writeable:
                raise ArgumentError(
                    f"{self._speaker}: {name} is read-only, but parameters are changed in place."
                )
        self.parameters = dict(parameters)
        self.lr = _positive(self._speaker, "lr", lr)
        self.steps = 0
        self._state = {
            slot: {name: np.zeros_like(array) for name, array in self.parameters.items()}
            for slot in self.slots
        }
        largest = max((array.size for array in self.parameters.values()), default=0)
        self._scratch = {
            dtype: np.empty(largest, dtype)
            for dtype in {array.dtype for array in self.parameters.values()}
        }

    def step(self, gradients: Gradients, lr: float | None = None) -> None:
        """Take one step: change every parameter in place.

        Parameters
        ----------
        gradients : mapping of name to array or IndexedRows
            One gradient per parameter, of its shape and dtype; not modified. Of an `IndexedRows`
            only the slices it names are touched, in the parameter and in the optimiser's own
            arrays: an index that did not occur keeps value and moments. Where every index occurs,
            the result equals that of the dense gradient to the bit.
        lr : float, optional
            The learning rate of this step; default the one given at construction.

        Raises
        ------
        ArgumentError
            If a gradient is missing, or has no parameter.
        ShapeError, DTypeError
            If a gradient has not the shape and dtype of its parameter. Nothing is changed then.
        """
        self._check(gradients)
        rate = self.lr if lr is None else _positive(self._speaker, "lr", lr)
        self.steps += 1
        for name, parameter in self.parameters.items():
            gradient = gradients[name]
            slots = [self._state[slot][name] for slot in self.slots]
            if isinstance(gradient, IndexedRows):
                views = [array if gradient.axis == 0 else array.T for array in (parameter, *slots)]
                rows = [view[gradient.indices] for view in views]
                self._update(rate, gradient.rows, self._scratch_like(gradient.rows), *rows)
                for view, row in zip(views, rows, strict=True):
                    view[gradient.indices] = row
            else:
                self._update(rate, gradient, self._scratch_like(gradient), parameter, *slots)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return copies of all that the next step depends on but the parameters.

        The keys are ``"steps"`` and ``"<slot>.<parameter>"``.
        """
        result = {"steps": np.array(self.steps, dtype=np.int64)}
        for slot, arrays in self._state.items():
            result.update({f"{slot}.{name}": array.copy() for name, array in arrays.items()})
        return result

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a `state_dict` of an optimiser of the same kind over the same parameters.

        Raises
        ------
        ArgumentError
            If entries are missing or unknown.
        ShapeError, DTypeError
            If an array does not fit its parameter. Nothing is changed then.
        """
        expected = {
            f"{slot}.{name}": array
            for slot, arrays in self._state.items()
            for name, array in arrays.items()
        }
        _same_names(self._speaker, "state", state, {"steps", *expected})
        for name, array in expected.items():
            _fits(self._speaker, f"state[{name!r}]", state[name], array)
        for name, array in expected.items():
            array[...] = state[name]
        self.steps = int(state["steps"])

    @abstractmethod
    def _update(
        self, rate: float, gradient: np.ndarray, scratch: np.ndarray, *arrays: np.ndarray
    ) -> None:
        """Update the parameter and its slots, all in the shape of `gradient`, in place."""

    def _scratch_like(self, array: np.ndarray) -> np.ndarray:
        return self._scratch[array.dtype][: array.size].reshape(array.shape)

    def _check(self, gradients: Gradients) -> None:
        _same_names(self._speaker, "gradients", gradients, self.parameters)
        for name, parameter in self.parameters.items():
            _fits(self._speaker, f"the gradient of {name}", gradients[name], parameter)

    @property
    def _speaker(self) -> str:
        return f"rnnfast.training.{type(self).__name__}"


class SGD(Optimizer):
    """Gradient descent, with momentum if asked for.

        u <- momentum u + g
        p <- p - lr u

    Parameters
    ----------
    parameters : mapping of name to (any shape) float32 or float64 array
        Changed in place by `step`; the optimiser keeps the arrays themselves.
    lr : float
        Learning rate, positive.
    momentum : float, default 0
        In ``[0, 1)``. Zero keeps no arrays.

    Notes
    -----
    Under an `IndexedRows` gradient the velocity of an index that did not occur neither decays nor
    moves the parameter.

    References
    ----------
    Polyak 1964, in the form of Sutskever et al. 2013 without their Nesterov step; equals
    ``torch.optim.SGD``.
    """

    def __init__(
        self, parameters: Mapping[str, np.ndarray], lr: float, momentum: float = 0.0
    ) -> None:
        if not 0 <= momentum < 1:
            raise ArgumentError(
                f"{self._speaker}: momentum is {momentum}, expected 0 <= momentum < 1."
            )
        self.momentum = momentum
        if momentum:
            self.slots = ("u",)
        super().__init__(parameters, lr)

    def _update(
        self, rate: float, gradient: np.ndarray, scratch: np.ndarray, *arrays: np.ndarray
    ) -> None:
        if self.momentum:
            parameter, u = arrays
            u *= self.momentum
            u += gradient
        else:
            (parameter,), u = arrays, gradient
        np.multiply(u, rate, out=scratch)
        parameter -= scratch


class Adam(Optimizer):
    """Adam with bias correction.

        m <- beta1 m + (1 - beta1) g
        v <- beta2 v + (1 - beta2) g^2
        p <- p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    Parameters
    ----------
    parameters : mapping of name to (any shape) float32 or float64 array
        Changed in place by `step`; the optimiser keeps the arrays themselves.
    lr : float, default 1e-3
        Learning rate, positive.
    betas : (float, float), default (0.9, 0.999)
        Decay of the two moments, each in ``[0, 1)``.
    eps : float, default 1e-8
        Added to the root of the second moment, positive.

    Notes
    -----
    Under an `IndexedRows` gradient the moments of an index that did not occur keep their values,
    while the bias correction counts all steps, as ``torch.optim.SparseAdam`` does.

    References
    ----------
    Kingma and Ba 2015, arXiv:1412.6980, algorithm 1; equals ``torch.optim.Adam`` without weight
    decay.
    """

    slots = ("m", "v")

    def __init__(
        self,
        parameters: Mapping[str, np.ndarray],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        for k, beta in enumerate(betas):
            if not 0 <= beta < 1:
                raise ArgumentError(
                    f"{self._speaker}: betas[{k}] is {beta}, expected 0 <= beta < 1."
                )
        self.betas = betas
        self.eps = _positive(self._speaker, "eps", eps)
        super().__init__(parameters, lr)

    def _update(
        self, rate: float, gradient: np.ndarray, scratch: np.ndarray, *arrays: np.ndarray
    ) -> None:
        parameter, m, v = arrays
        beta1, beta2 = self.betas
        root = math.sqrt(1 - beta2**self.steps)
        m *= beta1
        np.multiply(gradient, 1 - beta1, out=scratch)
        m += scratch
        v *= beta2
        np.multiply(gradient, gradient, out=scratch)
        scratch *= 1 - beta2
        v += scratch
        # Both corrections are folded into two scalars, as at the end of the paper's section 2: two
        # passes fewer.
        np.sqrt(v, out=scratch)
        scratch += self.eps * root
        np.divide(m, scratch, out=scratch)
        scratch *= rate * root / (1 - beta1**self.steps)
        parameter -= scratch


def _positive(speaker: str, name: str, value: float) -> float:
    if not (value > 0 and math.isfinite(value)):
        raise ArgumentError(f"{speaker}: {name} is {value}, expected a positive finite number.")
    return value


def _same_names(
    speaker: str, what: str, got: Mapping[str, object], expected: Mapping[str, object] | set[str]
) -> None:
    missing = sorted(set(expected) - set(got))
    unknown = sorted(set(got) - set(expected))
    if missing or unknown:
        parts = [f"lack {', '.join(missing)}"] if missing else []
        parts += [f"have unknown {', '.join(unknown)}"] if unknown else []
        raise ArgumentError(
            f"{speaker}: {what} {' and '.join(parts)}; the names come from the parameters."
        )


def _fits(speaker: str, what: str, got: np.ndarray | IndexedRows, parameter: np.ndarray) -> None:
    if not isinstance(got, (np.ndarray, IndexedRows)):
        raise DTypeError(
            f"{speaker}: {what} is a {type(got).__name__}; expected an array or IndexedRows."
        )
    if tuple(got.shape) != parameter.shape:
        raise ShapeError(
            f"{speaker}: {what} has shape {tuple(got.shape)}, "
            f"expected {parameter.shape}, its parameter's."
        )
    if got.dtype != parameter.dtype:
        raise DTypeError(
            f"{speaker}: {what} is {got.dtype}, but its parameter is {parameter.dtype}."
        )
