"""``rnnfast sample``: streams, repeats by seed, and knows what it does not know."""

import subprocess

import pytest
from conftest import require
from processes import PYTHON, environment

require("cli")

from rnnfast.cli import main  # noqa: E402

TEXT = "the cat sat on the mat; the dog sat on the log.\n" * 30


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    (folder / "text").write_text(TEXT)
    options = ["--hidden", "24", "--batch", "4", "--length", "16", "--dropout", "0"]
    options += ["--steps", "150"]
    out = folder / "model"
    assert main(["train", "--text", str(folder / "text"), "--out", str(out), *options]) == 0
    return str(out)


def sample(model, capsys, *options):
    capsys.readouterr()
    assert main(["sample", model, *options]) == 0
    return capsys.readouterr()


def test_the_likeliest_text(model, capsys):
    out, err = sample(model, capsys, "--prompt", "the c", "--length", "10", "--temperature", "0")
    assert out == "the cat sat on \n"
    assert err == ""


def test_seeds(model, capsys):
    hot = ("--temperature", "1.5", "--length", "60")
    one = sample(model, capsys, *hot, "--seed", "1").out
    assert len(one) == 61
    assert one == sample(model, capsys, *hot, "--seed", "1").out
    assert one != sample(model, capsys, *hot, "--seed", "2").out
    assert sample(model, capsys, *hot).out != sample(model, capsys, *hot).out


def test_unknown_characters(model, capsys):
    out, err = sample(model, capsys, "--prompt", "the Ω☃ ", "--length", "400", "--temperature", "3")
    assert out.startswith("the <UNK><UNK> ")
    assert "knows no 'Ω', '☃': read as <UNK>" in err
    assert "<UNK>" not in out[len("the <UNK><UNK> ") :]


def test_nothing_to_write(model, capsys):
    assert sample(model, capsys, "--length", "0", "--prompt", "the").out == "the\n"


def test_words(model, capsys, tmp_path):
    assert main(["sample", str(tmp_path)]) == 1
    assert "holds no model" in capsys.readouterr().err
    assert main(["sample", model, "--temperature", "-1"]) == 2
    assert main(["sample"]) == 2


def test_it_streams(model):
    """The first characters are there while the last are far from drawn, and a reader may leave."""
    command = [*PYTHON, "-m", "rnnfast", "sample", model]
    with subprocess.Popen(
        [*command, "--prompt", "the ", "--length", "100000000"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.read(40).startswith("the ")
        assert process.poll() is None
        process.stdout.close()
        assert process.wait(60) == 1
        assert process.stderr.read() == ""


def test_a_terminal_without_the_character(model):
    run = subprocess.run(
        [*PYTHON, "-m", "rnnfast", "sample", model, "--prompt", "the é", "--length", "1"],
        env=environment(PYTHONIOENCODING="ascii"),
        capture_output=True,
        timeout=60,
    )
    assert run.returncode == 0
    assert run.stdout.startswith(b"the <UNK>")
