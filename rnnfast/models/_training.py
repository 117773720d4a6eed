"""The one training loop of all models."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from ..training import Adam, clip_by_global_norm
from ._networks import Examples, Network

History = dict[str, list[float]]


@dataclass(frozen=True)
class Course:
    """How to train.

    Attributes
    ----------
    who : str
        Who speaks in messages and before the progress bar.
    epochs, batch_size : int
    learning_rate : float
    clip_norm : float or None
        Bound of the joint norm of all gradients.
    seed : int
        With the number of an epoch it decides its order and its dropout masks: so a course that
        was saved and loaded, or cut into several calls, goes on to the same bits.
    patience : int
        Epochs without a better loss on the validation examples before the end.
    verbose : bool
        Whether to show a progress bar.
    """

    who: str
    epochs: int
    batch_size: int
    learning_rate: float
    clip_norm: float | None
    seed: int
    patience: int
    verbose: bool


def train(
    network: Network,
    optimizer: Adam,
    examples: Examples,
    validation: Examples | None,
    history: History,
    course: Course,
) -> None:
    """Train in place; `history` goes on where it ends.

    With validation examples the parameters are at the end those of the best of these epochs.

    Raises
    ------
    FloatingPointError
        If a loss or gradient is not finite; parameters are then those before that step.
    """
    best, best_parameters, waited = math.inf, {}, 0
    bar = tqdm(range(course.epochs), desc=course.who, unit="epoch", disable=not course.verbose)
    for _ in bar:
        loss = _epoch(network, optimizer, examples, len(history["loss"]), course)
        history["loss"].append(loss)
        shown = {"loss": f"{loss:.4g}"}
        if validation is not None:
            now = evaluate(network, validation, course.batch_size)
            history["validation_loss"].append(now)
            shown["validation"] = f"{now:.4g}"
            waited += 1
            if now < best:
                best, waited = now, 0
                best_parameters = {k: array.copy() for k, array in network.parameters.items()}
        bar.set_postfix(shown)
        if waited >= course.patience:
            break
    bar.close()
    for name, array in best_parameters.items():
        network.parameters[name][...] = array


def evaluate(network: Network, examples: Examples, batch_size: int) -> float:
    """Return the mean loss over all examples."""
    order = np.arange(len(examples.x))
    total = weight = 0.0
    for rows in _batches(order, batch_size):
        loss, w = network.loss(examples.take(rows))
        total, weight = total + w * loss, weight + w
    return total / weight if weight > 0 else 0.0


def _epoch(
    network: Network, optimizer: Adam, examples: Examples, number: int, course: Course
) -> float:
    rng = np.random.default_rng([course.seed, number])
    order = rng.permutation(len(examples.x))
    total = weight = 0.0
    for rows in _batches(order, course.batch_size):
        with np.errstate(over="ignore", invalid="ignore"):  # looked at below
            loss, w, gradients = network.gradients(examples.take(rows), int(rng.integers(2**32)))
            norm = clip_by_global_norm(gradients, course.clip_norm or math.inf)
        if not math.isfinite(loss + norm):
            raise FloatingPointError(
                f"{course.who}: in epoch {number} the loss is {loss} and the gradient's norm "
                f"{norm}. A lower learning_rate or clip_norm may help."
            )
        optimizer.step(gradients, course.learning_rate)
        total, weight = total + w * loss, weight + w
    return total / weight if weight > 0 else 0.0


def _batches(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Cut into batches of nearly equal size: a rest of one or two rows would be a noisy step."""
    return np.array_split(order, max(1, -(-len(order) // batch_size)))
