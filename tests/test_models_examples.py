"""Every program in examples/ that the models are for runs, and finds what it asserts."""

import subprocess
from pathlib import Path

import pytest
from conftest import require
from processes import PYTHON, environment

require("models")

EXAMPLES = Path(__file__).parent.parent / "examples"

# What each must print, in the words of a line.
PROGRAMS = {
    "choose_hidden_size": "the choice: 32",
    "date_translation": "new dates translated without a mistake: ",
    "digit_captions": "new pictures captioned right, to the letter: ",
    "language_model": "bits per letter on 200 new ones",
    "moving_dots": "frames of new pictures labelled right: ",
    "music": "of the notes of 60 new tunes are of their style",
    "name_tagging": "He said [Teddy] [Roosevelt] came",
    "rotate_words": "of 20 seeds reach 100 % on the training words",
    "sentiment": "new reviews told right: ",
    "stacked_series": "sunspots from 1910 on: squared error ",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_runs_and_learns(name, tmp_path):
    run = subprocess.run(
        [*PYTHON, str(EXAMPLES / f"{name}.py")],
        cwd=tmp_path,
        # Threads that wait for each other at every step may take many times as long on a busy
        # machine; these networks are small.
        env=environment(RNNFAST_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert PROGRAMS[name] in run.stdout
    if name == "music":
        check_midi((tmp_path / "tune.mid").read_bytes())


def check_midi(content):
    """Read the file as a player would: header, one track, notes that begin and end."""
    assert content[:14] == b"MThd" + bytes([0, 0, 0, 6, 0, 0, 0, 1, 0, 16])
    assert content[14:18] == b"MTrk"
    events = content[22:]
    assert int.from_bytes(content[18:22], "big") == len(events)
    place, sounding, notes, ticks = 0, None, 0, 0
    while True:
        delta = 0
        while events[place] & 128:
            delta, place = (delta | events[place] & 127) << 7, place + 1
        delta, place = delta | events[place], place + 1
        ticks += delta
        kind, first, second = events[place : place + 3]
        place += 3
        if kind == 0xFF:
            assert (first, second) == (0x2F, 0)
            break
        if kind == 0x90:
            assert sounding is None
            sounding, notes = first, notes + 1
            assert delta == 0
            assert second > 0
        else:
            assert (kind, first) == (0x80, sounding)
            assert delta % 4 == 0
            sounding = None
    assert place == len(events)
    assert sounding is None
    assert notes >= 8
    assert ticks >= 8 * notes
