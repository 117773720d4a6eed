"""``rnnfast train``: what it leaves, what it says, and that it goes on to the same bits."""

import json
import math
import os
import signal
import subprocess
import time

import numpy as np
import pytest
from conftest import require
from processes import PYTHON, environment

import rnnfast

require("cli")

from rnnfast.cli import main, model_folder  # noqa: E402
from rnnfast.cli.training_run import Options, TrainingRun, learning_rate  # noqa: E402
from rnnfast.training import clip_by_global_norm  # noqa: E402

TEXT = "".join(f"{k} bottles of beer on the wall, {k} bottles of beer.\n" for k in range(60))
SMALL = ["--hidden", "8", "--batch", "3", "--length", "10"]


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text"
    path.write_text(TEXT)
    return path


def train(text, out, *options):
    return main(["train", "--text", str(text), "--out", str(out), *SMALL, *map(str, options)])


def weights(out):
    arrays, description = model_folder.read(out)
    return arrays, description["step"]


def assert_same_run(one, other):
    """Everything that later steps depend on, and the losses so far, are equal to the bit."""
    (arrays, step), (others, other_step) = weights(one), weights(other)
    assert step == other_step
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        if not name.startswith("history.validation"):  # looking more often changes nothing else
            assert array.dtype == others[name].dtype
            np.testing.assert_array_equal(array, others[name], err_msg=name)


def test_a_run(text, tmp_path, capsys):
    out = tmp_path / "model"
    assert train(text, out, "--steps", 60, "--every", 25, "--lr", 0.02) == 0
    said = capsys.readouterr().out
    assert "Best n-gram model (order" in said
    for step in (25, 50, 60):
        assert f"step {step}   training" in said
    assert "bits per character" in said
    assert f"rnnfast sample {out}" in said

    names = sorted(path.name for path in out.iterdir())
    assert names == ["loss.png", "model.json", "weights-00000060.safetensors"]
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG\r\n")
    description = json.loads((out / "model.json").read_text())
    assert description["weights"] == "weights-00000060.safetensors"
    assert description["options"]["hidden"] == 8
    arrays, _ = weights(out)
    V = len(description["vocabulary"]) + 1
    shapes = {name: array.shape for name, array in arrays.items() if name[:3] in ("rnn", "out")}
    assert shapes == {
        "rnn.weight_ih_l0": (32, V),
        "rnn.weight_hh_l0": (32, 8),
        "rnn.bias_ih_l0": (32,),
        "rnn.bias_hh_l0": (32,),
        "output.weight": (V, 8),
        "output.bias": (V,),
    }
    assert arrays["state.h"].shape == arrays["state.c"].shape == (1, 3, 8)
    losses = arrays["history.losses"]
    assert losses.shape == (60,)
    assert losses[-10:].mean() < 0.7 * losses[:3].mean()
    np.testing.assert_array_equal(arrays["history.validation_steps"], [25, 50, 60])


def test_default_text_needs_no_file(tmp_path, capsys):
    assert main(["train", "--out", str(tmp_path / "m"), *SMALL, "--steps", "1"]) == 0
    assert "characters to train on" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--cell", "gru", "--layers", 2, "--dropout", 0.3),
        ("--cell", "rnn", "--dropout", 0),
        ("--cell", "relu-rnn"),
    ],
)
def test_resuming_goes_on_to_the_same_bits(text, tmp_path, options):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(text, whole, "--steps", 40, *options) == 0
    assert train(text, parts, "--steps", 20, "--every", 7, *options) == 0
    resume = ["train", "--resume", "--out", str(parts)]
    assert main([*resume, "--steps", "33"]) == 0
    assert main([*resume, "--steps", "40"]) == 0
    assert_same_run(whole, parts)


def test_ctrl_c_saves_and_resuming_goes_on(text, tmp_path):
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    command = [*PYTHON, "-m", "rnnfast", "train", "--text", str(text)]
    process = subprocess.Popen(
        [*command, "--out", str(parts), *SMALL, "--steps", "1000000", "--every", "5"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_a_model(parts, process)
    process.send_signal(signal.SIGINT)
    said, complaints = process.communicate(timeout=60)
    assert process.returncode == 130
    assert complaints == ""
    _, step = weights(parts)
    assert f"Stopped after step {step}; the model is saved" in said
    assert f"rnnfast train --resume --out {parts}" in said
    assert main(["train", "--resume", "--out", str(parts), "--steps", str(step + 10)]) == 0
    assert train(text, whole, "--steps", step + 10) == 0
    assert_same_run(whole, parts)


def test_a_killed_run_leaves_a_good_model(text, tmp_path):
    out, rng, last = tmp_path / "model", np.random.default_rng(), 0
    start = ["--text", str(text), *SMALL]
    for _ in range(4):
        command = [*PYTHON, "-m", "rnnfast", "train", "--out", str(out)]
        command += [*start, "--steps", "1000000", "--every", "1"]
        process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
        wait_for_a_model(out, process, after=last)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.wait()
        step = weights(out)[1]
        assert step > last
        last, start = step, ["--resume"]
    assert main(["train", "--resume", "--out", str(out), "--steps", str(last + 1)]) == 0
    whole = tmp_path / "whole"
    assert train(text, whole, "--steps", last + 1) == 0
    assert_same_run(whole, out)
    assert len(list(out.glob("weights-*"))) == 1


def wait_for_a_model(out, process, after=0):
    limit = time.monotonic() + 60
    while not model_folder.exists(out) or weights(out)[1] <= after:
        assert process.poll() is None, "the run ended by itself"
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_validation_and_threads_change_nothing(text, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    kept = rnnfast.get_num_threads()
    try:
        assert train(text, one, "--steps", 12, "--every", 5, "--threads", 1) == 0
        assert train(text, other, "--steps", 12, "--every", 100, "--threads", 2) == 0
    finally:
        rnnfast.set_num_threads(kept)
    assert_same_run(one, other)


def test_the_seed_decides(text, tmp_path):
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        assert train(text, tmp_path / name, "--steps", 2, "--seed", seed) == 0
    assert_same_run(tmp_path / "one", tmp_path / "again")
    one, other = weights(tmp_path / "one")[0], weights(tmp_path / "other")[0]
    assert (one["rnn.weight_hh_l0"] != other["rnn.weight_hh_l0"]).any()


def test_minutes_stop_and_do_not_bend_the_schedule(text, tmp_path):
    timed, counted = tmp_path / "timed", tmp_path / "counted"
    began = time.monotonic()
    assert train(text, timed, "--minutes", 0.01) == 0
    assert time.monotonic() - began < 30
    _, step = weights(timed)
    assert train(text, counted, "--steps", step) == 0
    assert_same_run(timed, counted)
    # Nothing says how far to go on.
    assert main(["train", "--resume", "--out", str(timed)]) == 1
    assert main(["train", "--resume", "--out", str(timed), "--minutes", "0"]) == 0
    assert weights(timed)[1] == step + 1


def test_resuming_an_interrupted_run_ends_where_it_was_to_end(text, tmp_path, monkeypatch):
    out, whole = tmp_path / "out", tmp_path / "whole"
    advance = TrainingRun.advance

    def interrupted(run):
        if run.step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return advance(run)

    monkeypatch.setattr(TrainingRun, "advance", interrupted)
    assert train(text, out, "--steps", 9) == 130
    monkeypatch.undo()
    assert weights(out)[1] == 5
    assert main(["train", "--resume", "--out", str(out)]) == 0
    assert train(text, whole, "--steps", 9) == 0
    assert_same_run(whole, out)


def test_text_of_several_files(text, tmp_path, capsys):
    other = tmp_path / "other"
    other.write_text("ÄÖÜ" * 50)
    out = tmp_path / "m"
    files = [str(text), str(other)]
    assert main(["train", "--text", *files, "--out", str(out), *SMALL, "--steps", "1"]) == 0
    _, description = model_folder.read(out)
    assert description["text"]["sources"] == files
    assert description["text"]["characters"] == len(TEXT) + 1 + 150
    assert main(["train", str(text), "--out", str(tmp_path / "n")]) == 1
    assert "files of text come after --text" in capsys.readouterr().err


def test_words(text, tmp_path, capsys):
    out = tmp_path / "m"
    assert train(text, out, "--steps", 3) == 0

    def refused(*arguments):
        assert main(["train", *map(str, arguments)]) == 1
        return capsys.readouterr().err

    before = sorted((path.name, path.stat().st_mtime_ns) for path in out.iterdir())
    assert f"{out} already holds a model" in refused("--out", out)
    resume = ("--resume", "--out", out, "--steps")
    assert "has done 3 steps, --steps is 3" in refused(*resume, 3)
    assert "--hidden 9 was given, but" in refused(*resume, 9, "--hidden", 9)
    assert "begun with 8" in refused(*resume, 9, "--hidden", 9)
    assert "holds no model" in refused("--resume", "--out", tmp_path / "absent")
    other = tmp_path / "other"
    other.write_text(TEXT + "!")
    assert "Resume with the same text" in refused(*resume, 9, "--text", other)
    assert "absent cannot be read" in refused("--out", tmp_path / "n", "--text", "absent")
    short = tmp_path / "short"
    short.write_text("short")
    assert "text has 5 characters" in refused("--out", tmp_path / "n", "--text", short)
    assert "cuda" in refused("--out", tmp_path / "n", "--device", "cuda")
    assert before == sorted((path.name, path.stat().st_mtime_ns) for path in out.iterdir())
    assert main([*map(str, ("train", *resume, 4)), "--hidden", "8"]) == 0  # what agrees may stand


def test_a_run_that_diverges_says_so(text, tmp_path, capsys):
    out = tmp_path / "m"
    assert train(text, out, "--steps", 20, "--lr", 1e38, "--every", 1) == 1
    assert "A lower --lr or --clip may help" in capsys.readouterr().err
    assert not model_folder.exists(out)


def test_learning_rate():
    assert learning_rate(0, 0.5) == 0.5
    rates = [learning_rate(step, 0.5) for step in range(1501)]
    assert rates == sorted(rates, reverse=True)
    assert learning_rate(750, 0.5) == pytest.approx(0.26)
    assert learning_rate(1500, 0.5) == learning_rate(10**6, 0.5) == pytest.approx(0.02)


def test_a_step_of_another_seed_has_other_masks():
    run = TrainingRun(Options(hidden=8, batch=3, length=10, dropout=0.5), TEXT, [], "auto")
    x, targets = run.corpus.window(0)
    losses = [run.model.gradients(x, targets, None, seed)[0] for seed in ((0, 0), (0, 0), (0, 1))]
    assert losses[0] == losses[1] != losses[2]


def test_a_step_carries_clips_and_decays(monkeypatch):
    run = TrainingRun(Options(hidden=8, batch=3, length=10, clip=0.01), TEXT, [], "auto")
    entered, left, norms, rates = [], [], [], []
    gradients, step = run.model.gradients, run.optimizer.step

    def watched_gradients(x, targets, state, seed):
        entered.append(state)
        result = gradients(x, targets, state, seed)
        left.append(result[2])
        return result

    def watched_step(gradients, lr):
        norms.append(clip_by_global_norm(gradients, math.inf))
        rates.append(lr)
        step(gradients, lr)

    monkeypatch.setattr(run.model, "gradients", watched_gradients)
    monkeypatch.setattr(run.optimizer, "step", watched_step)
    for _ in range(5):
        run.advance()
    assert entered[0] is None
    assert all(a is b for a, b in zip(entered[1:], left, strict=False))
    np.testing.assert_allclose(norms, 0.01, rtol=1e-5)
    assert rates == [learning_rate(k, run.options.lr) for k in range(5)]
