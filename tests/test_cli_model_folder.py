"""The model's folder: one good model at every moment, whatever is killed when."""

import json
import os
import pathlib
import subprocess
import time

import numpy as np
import pytest
from conftest import require
from processes import PYTHON, environment

from rnnfast import ArgumentError

require("cli")

from rnnfast.cli import model_folder  # noqa: E402


def arrays(step):
    return {
        "weights": np.full((3, 4), step, np.float32),
        "step": np.array(step, np.int64),
        "empty": np.zeros((0, 2)),
    }


def whole(folder):
    """The step of the model in a folder, after checking that all its parts are of that step."""
    read, description = model_folder.read(folder)
    step = description["step"]
    for name, array in arrays(step).items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)
    return step


def write(folder, step):
    model_folder.write(folder, step, arrays(step), {"step": step, "word": "Größe"})


def test_round_trip(tmp_path):
    folder = tmp_path / "deep" / "model"
    assert not model_folder.exists(folder)
    write(folder, 7)
    assert model_folder.exists(folder)
    assert whole(folder) == 7
    _, description = model_folder.read(folder)
    assert description["word"] == "Größe"
    assert description["weights"] == "weights-00000007.safetensors"
    write(folder, 8)
    write(folder, 8)
    assert sorted(path.name for path in folder.iterdir()) == [
        "model.json",
        "weights-00000008.safetensors",
    ]


class Crash(BaseException):
    """The process ends here."""


class Actions:
    """What a write does to the disk: recorded, and cut off after so many."""

    WATCHED = ((os, "fsync"), (os, "replace"), (pathlib.Path, "unlink"), (model_folder, "save"))

    def __init__(self, patch, until):
        self.done, self.until = [], until
        for owner, name in self.WATCHED:
            patch.setattr(owner, name, self.watch(name, getattr(owner, name)))

    def watch(self, name, real):
        def action(*args, **kwargs):
            if len(self.done) == self.until:
                raise Crash
            self.done.append(name)
            return real(*args, **kwargs)

        return action


def test_a_crash_at_every_single_action(tmp_path, monkeypatch):
    """Whichever action is the last one, the folder holds the old model or the new one, whole."""
    outcomes = []
    for until in range(100):
        folder = tmp_path / str(until)
        write(folder, 1)
        with monkeypatch.context() as patch:
            actions = Actions(patch, until)
            try:
                write(folder, 2)
                crashed = False
            except Crash:
                crashed = True
        outcomes.append(whole(folder))
        write(folder, 3)  # and the next save cleans up
        assert len(list(folder.iterdir())) == 2
        if not crashed:
            break
    assert not crashed
    # Each file is on disk before its rename, and that before the next; the old weights go last.
    put = ["fsync", "replace", "fsync"]
    assert actions.done == ["save", *put, *put, "unlink"]
    assert outcomes == [1] * 6 + [2] * 3


def test_half_written_files_are_not_read(tmp_path, monkeypatch):
    """A crash within a write leaves part of a temporary file, never part of a model."""
    write(tmp_path, 1)

    def half(arrays):
        content = save(arrays)
        return content[: len(content) // 2]

    save = model_folder.save
    with monkeypatch.context() as patch:
        patch.setattr(model_folder, "save", half)
        patch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(Crash))
        with pytest.raises(Crash):
            write(tmp_path, 2)
    assert whole(tmp_path) == 1


def test_kill_9_at_random_moments(tmp_path):
    script = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path\n"
        "from test_cli_model_folder import write\n"
        "step = int(sys.argv[1])\n"
        "while True: step += 1; write(Path('model'), step)\n"
    )
    rng, last = np.random.default_rng(), 0
    for _ in range(5):
        process = subprocess.Popen(
            [*PYTHON, "-c", script, str(last), str(pathlib.Path(__file__).parent)],
            cwd=tmp_path,
            env=environment(),
        )
        limit = time.monotonic() + 60
        while not (model_folder.exists(tmp_path / "model") and whole(tmp_path / "model") > last):
            assert process.poll() is None, "the writer ended by itself"
            assert time.monotonic() < limit
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.wait()
        step = whole(tmp_path / "model")
        assert step > last
        last = step


def test_reading_while_another_process_writes(tmp_path):
    """The weights may be replaced between the two reads; then the new model is read."""
    write(tmp_path, 1)
    real = model_folder._read_description

    def and_then_it_is_replaced(folder):
        description = real(folder)
        if description["step"] == 1:
            write(tmp_path, 2)
        return description

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_folder, "_read_description", and_then_it_is_replaced)
        assert whole(tmp_path) == 2


def test_words(tmp_path):
    with pytest.raises(ArgumentError, match=r"holds no model.*rnnfast train --out"):
        model_folder.read(tmp_path)
    write(tmp_path, 1)
    weights, description = tmp_path / "weights-00000001.safetensors", tmp_path / "model.json"
    content = weights.read_bytes()
    weights.write_bytes(content[:-5])
    with pytest.raises(ArgumentError, match=r"weights-00000001.safetensors cannot be read"):
        model_folder.read(tmp_path)
    weights.unlink()
    with pytest.raises(ArgumentError, match=r"names weights-00000001\S+, which is missing"):
        model_folder.read(tmp_path)
    description.write_text(json.dumps({"format": 99}))
    with pytest.raises(ArgumentError, match="has format 99, expected 1"):
        model_folder.read(tmp_path)
    description.write_text("{")
    with pytest.raises(ArgumentError, match=r"model.json cannot be read as a model's description"):
        model_folder.read(tmp_path)
    description.write_text("[]")
    with pytest.raises(ArgumentError, match="has format None"):
        model_folder.read(tmp_path)
