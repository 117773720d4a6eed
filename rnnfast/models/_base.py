"""What all models share: parameters, the course of a fit, saving and loading."""

from __future__ import annotations

import dataclasses
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from .. import __version__, _values
from ..cells import CELLS
from ..errors import ArgumentError, ShapeError
from ..training import Adam
from . import _inputs, _saving
from ._networks import Encoder, Examples, Shape, load, prefixed
from ._ragged import Ragged
from ._training import Course, train
from .vocabulary import TOKENIZERS, Vocabulary


@dataclass(kw_only=True, repr=False, eq=False)
class SequenceModel(BaseEstimator, ABC):
    """The parameters that every model has.

    Those that shape the network are read by the first fit, and again by a fit that begins anew: set
    in between, they leave the network as it is.

    Parameters
    ----------
    cell : {"gru", "lstm", "rnn_tanh", "rnn_relu"}, default "gru"
    hidden_size : int, default 64
        Hidden units per layer and direction.
    num_layers : int, default 1
    bidirectional : bool
        Whether a second direction reads from the end; default False, in a tagger and in the
        encoder of `Seq2Seq` True.
    residual : bool, default False
        Whether layers from the second on add what they read.
    dropout : float, default 0
        Probability of a zero between layers and before the output, while training.
    learning_rate : float, default 0.005
        Of Adam.
    max_epochs : int, default 100
    batch_size : int, default 32
        Sequences per step. Predictions do not depend on it.
    clip_norm : float or None, default 1.0
        Bound of the joint norm of all gradients; None for none.
    early_stopping : bool, default False
        Whether to hold out a share of the sequences, stop when the loss on them has not improved
        for `patience` epochs, and go back to the best epoch's parameters.
    validation_fraction : float, default 0.1
        The share held out.
    patience : int, default 10
    warm_start : bool, default False
        Whether `fit` goes on from the parameters there are. What was learned of the data's form
        (vocabulary, classes, means) then stays as it is.
    random_state : int, RandomState or None, default None
        Of initial values, order and dropout. An int gives the same bits on every run, for any
        number of threads.
    verbose : bool, default False
        Whether to show a progress bar.
    input : {"numbers", "tokens"}, default "numbers"
        What X holds. "numbers": an array (N, T, F), or a list of (T_k, F); an array (N, T) and
        items (T_k,) are sequences of one feature. "tokens": texts, or sequences of str or int.
    standardize : bool, default True
        Whether numbers are brought to mean 0 and variance 1, feature by feature, as they were in
        the first `fit`; so are the targets of a regression, and its predictions are brought back.
    tokenizer : {"words", "characters"}, default "words"
        What cuts a text into tokens.
    vocabulary : Vocabulary, iterable of str or int, or None, default None
        The tokens to know; None learns them from X.
    vocabulary_size : int or None, default None
        How many tokens to learn, the most frequent ones; None for all. Others are ``<UNK>``.
    embedding_size : int or None, default None
        Length of the learned vectors that stand for tokens; None for one-hot, which is looked up
        and never written out.
    dtype : {"float32", "float64"}, default "float32"
    device : {"auto", "cpu", "numpy"}, default "auto"

    Attributes
    ----------
    history_ : dict of str to list of float
        ``"loss"`` of every epoch, ``"validation_loss"`` under `early_stopping`.
    vocabulary_ : Vocabulary
        Of X, under ``input="tokens"``.
    n_features_in_ : int
        F, under ``input="numbers"``.
    """

    cell: str = "gru"
    hidden_size: int = 64
    num_layers: int = 1
    bidirectional: bool = False
    residual: bool = False
    dropout: float = 0.0
    learning_rate: float = 0.005
    max_epochs: int = 100
    batch_size: int = 32
    clip_norm: float | None = 1.0
    early_stopping: bool = False
    validation_fraction: float = 0.1
    patience: int = 10
    warm_start: bool = False
    random_state: Any = None
    verbose: bool = False
    input: str = "numbers"
    standardize: bool = True
    tokenizer: str = "words"
    vocabulary: Vocabulary | Iterable[Any] | None = None
    vocabulary_size: int | None = None
    embedding_size: int | None = None
    dtype: Any = "float32"
    device: str = "auto"

    _structure: ClassVar[tuple[str, ...]] = (
        *(field.name for field in dataclasses.fields(Shape)),
        "embedding_size",
        "input",
    )
    """The parameters that a network is made by. Those of a fit stay in force until the next."""
    _inputs_known: ClassVar[tuple[str, ...]] = ("numbers", "tokens")
    _fitted: ClassVar[tuple[str, ...]] = ()
    """The attributes, beside the common ones, that a fit leaves and a file keeps."""

    # What a model adds -------------------------------------------------------------------------

    @abstractmethod
    def _examples(self, X: Any, y: Any, sample_weight: Any, learn: bool) -> Examples:
        """Check the data; under `learn` also note its form in attributes."""

    @abstractmethod
    def _make(self, seed: int) -> Any:
        """Make a network for the form that was noted."""

    # Fitting -----------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Learn from sequences.

        Parameters
        ----------
        X : sequences
            See `input`.
        y : targets, one for each sequence
            See the class.
        sample_weight : (N,) float, optional
            How much each sequence counts in the loss.

        Returns
        -------
        self

        Raises
        ------
        ArgumentError, ShapeError, DTypeError
            Name the parameter or array, what came and what was expected.
        FloatingPointError
            If the training diverges.
        """
        again = self.warm_start and self.__sklearn_is_fitted__()
        return self._learn(X, y, sample_weight, again, self.max_epochs, self.early_stopping)

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Go through the data once, from the parameters there are.

        The first call notes the form of the data (vocabulary, means); parameters as in `fit`.
        """
        return self._learn(X, y, sample_weight, self.__sklearn_is_fitted__(), 1, False)

    def _learn(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        again: bool,
        epochs: int,
        hold_out: bool,
        **more: Any,
    ) -> Self:
        self._check_parameters()
        if not again:
            self._made = {name: getattr(self, name) for name in self._structure}
        examples = self._examples(X, y, sample_weight, learn=not again, **more)
        if not again:
            self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
            self.history_: dict[str, list[float]] = {"loss": [], "validation_loss": []}
            self._assemble()
        validation = None
        if hold_out:
            examples, validation = self._hold_out(examples)
        course = Course(
            self._who,
            epochs,
            self.batch_size,
            self.learning_rate,
            self.clip_norm,
            self._seed,
            self.patience,
            self.verbose,
        )
        train(self.network_, self._optimizer, examples, validation, self.history_, course)
        return self

    def _assemble(self, arrays: dict[str, np.ndarray] | None = None) -> None:
        """Make network and optimiser, from `_arrays` or anew."""
        network = self._make(self._seed)
        optimizer = Adam(network.parameters, self.learning_rate)
        if arrays is not None:
            load(network.parts, _part(arrays, "network."))
            optimizer.load_state_dict(_part(arrays, "optimizer."))
        self.network_, self._optimizer = network, optimizer

    def _arrays(self) -> dict[str, np.ndarray]:
        """All arrays of network and optimiser, by name."""
        return {
            **prefixed("network", self.network_.parameters),
            **prefixed("optimizer", self._optimizer.state_dict()),
        }

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if state.pop("network_", None) is not None:
            del state["_optimizer"]
            state["_pickled"] = self._arrays()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        # The arrays are copied into a new network: joblib hands on read-only maps of large ones.
        arrays = state.pop("_pickled", None)
        super().__setstate__(state)
        if arrays is not None:
            self._assemble(arrays)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.string = self.input == "tokens"
        return tags

    def _hold_out(self, examples: Examples) -> tuple[Examples, Examples]:
        """Divide into examples to train and to validate on, at random."""
        order = np.random.default_rng(self._seed).permutation(len(examples.x))
        count = self._count_held_out(len(order))
        return examples.take(np.sort(order[count:])), examples.take(np.sort(order[:count]))

    def _count_held_out(self, rows: int) -> int:
        if rows < 2:
            raise ArgumentError(
                f"{self._who}: X has {rows} rows, expected at least 2 under early_stopping=True."
            )
        return min(rows - 1, max(1, round(self.validation_fraction * rows)))

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "network_")

    @property
    def _who(self) -> str:
        return f"rnnfast.models.{type(self).__name__}"

    @property
    def _dtype(self) -> np.dtype:
        return np.dtype(self._made["dtype"])

    def _check_parameters(self) -> None:
        who = self._who
        _values.choice(who, "cell", self.cell, *CELLS)
        _values.choice(who, "input", self.input, *self._inputs_known)
        _values.choice(who, "tokenizer", self.tokenizer, *TOKENIZERS)
        for name in ("hidden_size", "num_layers", "max_epochs", "batch_size", "patience"):
            _values.at_least(who, name, getattr(self, name), 1)
        for name in ("vocabulary_size", "embedding_size"):
            if getattr(self, name) is not None:
                _values.at_least(who, name, getattr(self, name), 1)
        for name in ("dropout", "validation_fraction"):
            if _values.probability(who, name, getattr(self, name)) == 1:
                raise ArgumentError(f"{who}: {name} is 1, expected less.")
        _values.bound(who, "clip_norm", self.clip_norm)
        if _values.bound(who, "learning_rate", self.learning_rate) is None:
            raise ArgumentError(f"{who}: learning_rate is None, expected a number above 0.")

    # X -----------------------------------------------------------------------------------------

    def _read_rows(self, X: Any, learn: bool = False) -> Ragged:
        """Check X and bring it into the form that the encoder reads."""
        if self._made["input"] == "tokens":
            rows = _inputs.token_rows(self._who, X, self.tokenizer)
            if learn:
                self.vocabulary_ = self._learn_vocabulary(rows)
            encoded = [self.vocabulary_.encode(row) for row in rows]
            return Ragged.of(encoded, np.empty(0, np.int64))
        x = _inputs.number_rows(self._who, X)
        return x.with_values(self._scaled(x.values, learn))

    def _scaled(self, values: np.ndarray, learn: bool) -> np.ndarray:
        """Return (M, F) in units of what was noted of the first fit's; under `learn` note it."""
        features = values.shape[1]
        if learn:
            self.n_features_in_ = features
            self._x_mean, self._x_scale = _moments(values, self.standardize)
        elif features != self.n_features_in_:
            raise ShapeError(
                f"{self._who}: X has {features} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input; F={self.n_features_in_} from fit."
            )
        return ((values - self._x_mean) / self._x_scale).astype(self._dtype)

    def _learn_vocabulary(self, rows: Iterable[Iterable[Any]]) -> Vocabulary:
        if isinstance(self.vocabulary, Vocabulary):
            return self.vocabulary
        if self.vocabulary is not None:
            return Vocabulary(self.vocabulary)
        return Vocabulary.learn(rows, self.vocabulary_size)

    def _encoder(self, seed: int) -> Encoder:
        """Make what reads X."""
        if self._made["input"] == "tokens":
            size = self._made["embedding_size"]
            return Encoder(self._shape(), len(self.vocabulary_), True, size, seed)
        return Encoder(self._shape(), self.n_features_in_, False, None, seed)

    def _shape(self) -> Shape:
        names = (field.name for field in dataclasses.fields(Shape))
        return Shape(**{name: self._made[name] for name in names})

    def _outputs(self, x: Ragged) -> np.ndarray:
        """Run the network over all rows, a batch at a time."""
        return np.concatenate([self.network_.outputs(x[rows]) for rows in self._slices(len(x))])

    def _slices(self, N: int) -> list[np.ndarray]:
        """Return the numbers of N rows, a batch at a time."""
        return [
            np.arange(start, min(N, start + self.batch_size))
            for start in range(0, N, self.batch_size)
        ]

    # What is left after a fit ------------------------------------------------------------------

    def plot_history(self, ax: Any = None) -> Any:
        """Draw the loss over the epochs.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure if omitted.

        Returns
        -------
        matplotlib Axes
        """
        check_is_fitted(self)
        if ax is None:
            from matplotlib import pyplot

            _, ax = pyplot.subplots(layout="constrained")
        epochs = len(self.history_["loss"])
        for name, label in (("loss", "training"), ("validation_loss", "validation")):
            losses = self.history_[name]
            if losses:  # a warm start may have begun to hold out later
                ax.plot(np.arange(epochs - len(losses), epochs) + 1, losses, label=label)
        ax.set(xlabel="epoch", ylabel="loss", title=type(self).__name__)
        ax.legend(frameon=False)
        return ax

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model into one file: arrays as safetensors, the rest as JSON in its header.

        A file that is there is replaced in one step: a process killed meanwhile leaves it as it
        was. The optimiser is kept too, so that `partial_fit` and a warm start go on to the same
        bits as if the model had never been saved.

        Raises
        ------
        ArgumentError
            If a parameter has no place in a file, such as a RandomState as `random_state`.
        """
        check_is_fitted(self)
        noted = {name: getattr(self, name) for name in self._kept()}
        description = {
            "rnnfast": __version__,
            "model": type(self).__name__,
            "parameters": {k: _saving.plain(v) for k, v in self.get_params(deep=False).items()},
            "fitted": {name: _saving.plain(value) for name, value in noted.items()},
        }
        _saving.write(path, description, self._arrays())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a model that `save` wrote.

        Raises
        ------
        OSError
            If the file cannot be opened.
        ArgumentError
            If it holds no model, one of another class, or is damaged; the message says which.
        """
        description, arrays = _saving.read(path)
        kind = description.get("model")
        if kind != cls.__name__:
            raise ArgumentError(
                f"{cls.__module__}: {path} holds a {kind}, expected a {cls.__name__}."
            )
        try:
            model = cls(**description["parameters"])
            model._check_parameters()
            model._note(description["fitted"])
            model._assemble(arrays)
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise ArgumentError(
                f"rnnfast.models: {path} is no complete {cls.__name__}: {error}"
            ) from error
        return model

    def _kept(self) -> tuple[str, ...]:
        """Names of what a fit notes beside the arrays of the network."""
        return ("history_", "_made", "_seed", *self._of_x(), *self._fitted)

    def _of_x(self) -> tuple[str, ...]:
        """Names of what a fit notes of X."""
        if self._made["input"] == "tokens":
            return ("vocabulary_",)
        return ("n_features_in_", "_x_mean", "_x_scale")

    def _note(self, fitted: dict[str, Any]) -> None:
        """Set what `_kept` names, exactly that: a file may not set anything else."""
        self._made = fitted.get("_made", {"input": None})
        if odd := sorted(set(fitted) ^ set(self._kept())):
            kind = "unknown" if odd[0] in fitted else "missing"
            raise ArgumentError(f"the entry {odd[0]!r} is {kind}.")
        for name, value in fitted.items():
            setattr(self, name, value)


def _part(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)}


def _moments(values: np.ndarray, standardize: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of the columns of (M, F); 1 for one that is constant."""
    if not standardize or len(values) == 0:
        return np.zeros(values.shape[1]), np.ones(values.shape[1])
    mean, scale = values.mean(0, dtype=np.float64), values.std(0, dtype=np.float64)
    return mean, np.where(scale > 1e-12 * np.abs(mean), scale, 1.0)
