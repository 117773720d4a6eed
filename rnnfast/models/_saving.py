"""A model in one file: arrays by safetensors, everything else as JSON in the header.

Nothing in it is code, so a file from anywhere may be opened.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from .._files import replace_file
from ..errors import ArgumentError
from .vocabulary import SPECIAL, Vocabulary

FORMAT = 1
_KEY = "rnnfast.models"


def write(path: str | os.PathLike[str], description: dict[str, Any], arrays: Any) -> None:
    """Replace the file at `path` in one step.

    Raises
    ------
    ArgumentError
        If something in `description` has no place in JSON; the file is untouched then.
    """
    try:
        text = json.dumps(
            {"format": FORMAT, **description}, default=_encode, allow_nan=True, ensure_ascii=False
        )
    except TypeError as error:
        raise ArgumentError(f"rnnfast.models: the model cannot be saved: {error}") from None
    dense = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    replace_file(Path(path), save(dense, metadata={_KEY: text}))


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the description and the arrays of the file at `path`.

    Raises
    ------
    OSError
        If there is no file, or it cannot be opened.
    ArgumentError
        If it holds no model, is damaged, or of another format.
    """
    with open(path, "rb"):
        pass  # Python's own words for a file that is missing, a folder, or forbidden
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(_KEY)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ArgumentError(f"rnnfast.models: {path} cannot be read: {error}.") from error
    if text is None:
        raise ArgumentError(f"rnnfast.models: {path} holds arrays, but no model of rnnfast.models.")
    try:
        description = json.loads(text, object_hook=_decode)
    except (ValueError, TypeError) as error:
        raise ArgumentError(f"rnnfast.models: {path} cannot be read: {error}.") from error
    found = description.get("format") if isinstance(description, dict) else None
    if found != FORMAT:
        raise ArgumentError(
            f"rnnfast.models: {path} has format {found}, expected {FORMAT}: "
            "another version of rnnfast wrote it."
        )
    return description, arrays


def plain(value: Any) -> Any:
    """Return a value with what JSON would change put into a form that it keeps."""
    if isinstance(value, dict):  # JSON would make strings of its keys
        return {"pairs": [[plain(key), plain(entry)] for key, entry in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [plain(entry) for entry in value]}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return value


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"array": value.tolist(), "dtype": value.dtype.str}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return np.dtype(value).name
    if isinstance(value, Vocabulary):
        return {"vocabulary": value.tokens[len(SPECIAL) :]}
    raise TypeError(
        f"{value!r} is of type {type(value).__qualname__}, expected numbers, texts, arrays, "
        "vocabularies, or lists and dictionaries of them."
    )


def _decode(entry: dict[str, Any]) -> Any:
    match entry:
        case {"pairs": list(pairs), **rest} if not rest:
            return dict(pairs)
        case {"tuple": list(entries), **rest} if not rest:
            return tuple(entries)
        case {"array": list(values), "dtype": str(dtype), **rest} if not rest:
            return np.array(values, dtype=np.dtype(dtype))
        case {"vocabulary": list(tokens), **rest} if not rest:
            return Vocabulary(tokens)
    return entry
