"""Class labels as numbers and back, and what each class weighs."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.class_weight import compute_class_weight

from ..errors import ArgumentError


def encode(who: str, labels: np.ndarray, classes: np.ndarray, name: str = "y") -> np.ndarray:
    """Return the place of each label among the sorted classes, int64.

    Raises
    ------
    ArgumentError
        If a label is none of them.
    """
    places = np.minimum(np.searchsorted(classes, labels), len(classes) - 1).astype(np.int64)
    if (strange := classes[places] != labels).any():
        came = labels[strange].tolist()[0]
        raise ArgumentError(
            f"{who}: {name} holds {came!r}, expected one of the {len(classes)} classes of the "
            "first fit. With partial_fit name all of them in classes."
        )
    return places


def weights(who: str, class_weight: Any, classes: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return the weight of each class, (C,) float64.

    Parameters
    ----------
    who : str
        Who speaks in messages.
    class_weight : dict, "balanced" or None
        Classes that a dict leaves out weigh 1.
    classes : (C,) array
    places : (M,) int
        The classes that occurred, for "balanced"; one that did not weighs 1.
    """
    if class_weight is None:
        return np.ones(len(classes))
    if isinstance(class_weight, str) and class_weight != "balanced":
        raise ArgumentError(
            f'{who}: class_weight is {class_weight!r}, expected "balanced", a dict or None.'
        )
    found = np.unique(places)
    result = np.ones(len(classes))
    if isinstance(class_weight, str):
        result[found] = compute_class_weight("balanced", classes=found, y=places)
    else:
        # Labels may be NumPy's or Python's own; both hash alike.
        unknown = [label for label in class_weight if label not in classes.tolist()]
        if unknown:
            raise ArgumentError(f"{who}: class_weight holds {unknown[0]!r}, which is no class.")
        for k, label in enumerate(classes.tolist()):
            result[k] = class_weight.get(label, 1.0)
    return result


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities over the last axis, float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    np.exp(shifted, out=shifted)
    shifted /= shifted.sum(axis=-1, keepdims=True)
    return shifted
