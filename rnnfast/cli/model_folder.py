"""A model on disk: a folder that holds one good model at every moment, whatever is killed when.

    weights-<step>.safetensors    parameters under PyTorch's names, optimiser, carried state,
    history model.json                    options, vocabulary, step, and the name of the weights
    file that belongs to them

The weights are written first, under a name of their own. Then ``model.json`` is replaced in one
atomic step and names them. Only after that are older weights removed. Each file is forced to disk
before the next action depends on it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from .._files import replace_file
from ..errors import ArgumentError

FORMAT = 1
DESCRIPTION = "model.json"


def exists(folder: Path) -> bool:
    """Whether `folder` holds a model."""
    return (folder / DESCRIPTION).exists()


def write(
    folder: Path, step: int, arrays: dict[str, np.ndarray], description: dict[str, Any]
) -> None:
    """Replace the model in `folder`, which is created if need be.

    Parameters
    ----------
    folder : Path
    step : int
        Names the weights file.
    arrays : dict of str to array
        What goes into it.
    description : dict
        What goes into ``model.json``, with ``format`` and ``weights`` added.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / f"weights-{step:08d}.safetensors"
    replace_file(
        weights, save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    )
    content = json.dumps(
        {"format": FORMAT, "weights": weights.name, **description}, indent=2, ensure_ascii=False
    )
    replace_file(folder / DESCRIPTION, (content + "\n").encode())
    for old in folder.glob("weights-*.safetensors*"):
        if old.name != weights.name:
            old.unlink()


def read(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the arrays and the description of the model in `folder`.

    Raises
    ------
    ArgumentError
        If there is no model, or its files are damaged or of a newer format; the message names the
        file.
    """
    description = _read_description(folder)
    while True:
        weights = folder / description["weights"]
        try:
            return load(weights.read_bytes()), description
        except FileNotFoundError as error:
            earlier, description = description, _read_description(folder)
            if description["weights"] == earlier["weights"]:
                raise ArgumentError(
                    f"rnnfast: {folder / DESCRIPTION} names {weights.name}, which is missing."
                ) from error
            # A training run replaced the model between the two reads: read the new one.
        except (OSError, SafetensorError) as error:
            raise ArgumentError(f"rnnfast: {weights} cannot be read: {error}.") from error


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        description = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ArgumentError(
            f"rnnfast: {folder} holds no model, there is no {path}; "
            f"`rnnfast train --out {folder}` makes one."
        ) from None
    except (OSError, ValueError) as error:
        raise ArgumentError(
            f"rnnfast: {path} cannot be read as a model's description: {error}."
        ) from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        found = description.get("format") if isinstance(description, dict) else None
        raise ArgumentError(
            f"rnnfast: {path} has format {found}, expected {FORMAT}: "
            f"another version of rnnfast wrote it."
        )
    return description
