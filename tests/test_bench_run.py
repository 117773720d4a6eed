"""A run end to end: rnnfast and NumPy, and peers that are wrong, absent, dead or mute."""

import functools
import itertools
import json
import math
import os
import runpy
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import require

import rnnfast
from rnnfast.bench import driver as driver_module
from rnnfast.bench import machine, process, report, results
from rnnfast.bench.check import Judge, reference
from rnnfast.bench.driver import Driver, missing_rows
from rnnfast.bench.explain import explain
from rnnfast.bench.grid import DROPOUT, GRID, INFERENCE, TRAINING, Row
from rnnfast.bench.machine import Peaks
from rnnfast.bench.peers import OURS, PEERS, Peer
from rnnfast.bench.problem import SEED, Problem
from rnnfast.bench.process import Process, WorkerError
from rnnfast.cli import main

SMALL = Row("lstm", 3, 2, 5, 8)
TINY_SECONDS = 0.002

# Peers made of NumPy's, each with something of its own.
FAKE = """
import importlib.util, os, sys, time
spec = importlib.util.spec_from_file_location("numpy_peer", {numpy!r})
base = importlib.util.module_from_spec(spec)
spec.loader.exec_module(base)
start, lacks, build = base.start, base.lacks, base.build
{more}
"""
MEETING = """
def build(row, arrays, weights):
    here = os.path.dirname(__file__)
    open(os.path.join(here, "{0} is here"), "w").close()
    end = time.monotonic() + 20
    while not os.path.exists(os.path.join(here, "{1} is here")):
        if time.monotonic() > end:
            raise RuntimeError("it waited in vain")
        time.sleep(0.001)
    return base.build(row, arrays, weights)
"""
FAKES = {
    "right": "",
    "noisy": """
def build(row, arrays, weights):
    print("on standard output")
    os.write(1, b"and below Python")
    return base.build(row, arrays, weights)
""",
    "wrong": """
def build(row, arrays, weights):
    H = row["H"]
    swapped = dict(weights)
    for name, array in weights.items():  # gates f and i change places
        if name.startswith("weight_hh"):
            swapped[name] = array.copy()
            swapped[name][:H], swapped[name][H : 2 * H] = array[H : 2 * H], array[:H]
    return base.build(row, arrays, swapped)
""",
    "coarse": """
def build(row, arrays, weights):
    import numpy as np
    call, results = base.build(row, arrays, weights)[""]
    return {"": (call, lambda found: {n: a.astype(np.float16).astype(a.dtype)
                                      for n, a in results(found).items()})}
""",
    "short": """
def build(row, arrays, weights):
    call, results = base.build(row, arrays, weights)[""]
    return {"": (call, lambda found: {n: a for n, a in results(found).items() if n != "h_n"})}
""",
    "not a number": """
def build(row, arrays, weights):
    call, results = base.build(row, arrays, weights)[""]
    def spoiled(found):
        named = results(found)
        named["y"][-1, -1, -1] = float("nan")
        return named
    return {"": (call, spoiled)}
""",
    "half": """
def build(row, arrays, weights):
    good = base.build(row, arrays, weights)[""]
    call, results = good
    return {"": good, "bad": (call, lambda found: {n: a + 1 for n, a in results(found).items()})}
""",
    "absent": "import a_library_that_is_not_installed",
    "raising": """
def build(row, arrays, weights):
    raise ValueError("no such operator")
""",
    "without": """
def lacks(row):
    return "it has no " + row["cell"]
""",
    "dying": """
def build(row, arrays, weights):
    if row["T"] > 3:
        return base.build(row, arrays, weights)
    print("a last word", file=sys.stderr)
    sys.stderr.flush()
    os._exit(3)
""",
    "tired": """
count = 0
def build(row, arrays, weights):
    call, results = base.build(row, arrays, weights)[""]
    def tiring():
        global count
        count += 1
        if count > 5:
            raise RuntimeError("enough")
        return call()
    return {"": (tiring, results)}
""",
    "mute": """
def build(row, arrays, weights):
    time.sleep(60)
""",
    # Each builds only once the other has begun to.
    "one": MEETING.format("one", "other"),
    "other": MEETING.format("other", "one"),
    # One call for the check, six rounds, and no more.
    "long": """
count = 0
def build(row, arrays, weights):
    call, results = base.build(row, arrays, weights)[""]
    def sleeping():
        global count
        count += 1
        if count > 7:
            raise RuntimeError("a call too many")
        time.sleep(0.03)
        return call()
    return {"": (sleeping, results)}
""",
    "spinning": """
import threading
def spin():
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        pass
def build(row, arrays, weights):
    call, results = base.build(row, arrays, weights)[""]
    def leaving_a_thread():
        threading.Thread(target=spin).start()
        return call()
    return {"": (leaving_a_thread, results)}
""",
}


@pytest.fixture(scope="module")
def fakes(tmp_path_factory) -> dict[str, Peer]:
    folder = tmp_path_factory.mktemp("peers")
    made = {}
    for name, more in FAKES.items():
        path = folder / f"{name.replace(' ', '_')}.py"
        path.write_text(FAKE.format(numpy=str(PEERS["numpy"].file), more=more))
        made[name] = Peer(name, name, path, package=True)
    return made


@pytest.fixture(autouse=True)
def peaks(monkeypatch):
    """Peaks at once; how they are measured has a test of its own."""
    read = {"L1": 4e11, "L2": 2e11, "L3": 1e11, "L3 edge": 8e10, "DRAM": 4e10}
    flops = {"float32": 1e11, "float64": 5e10}
    caches = {"L1": 48 << 10, "L2": 1 << 20, "L3": 32 << 20}
    monkeypatch.setattr(machine, "measure_peaks", lambda n: Peaks(n, flops, read, caches))
    rates = itertools.cycle((5e10, 1e11, 8e10))
    monkeypatch.setattr(machine.Tile, "rate", lambda tile: next(rates))
    for name in ("Tile", "Activation", "Read"):
        meter = functools.partial(getattr(machine, name), seconds=1e-5)
        monkeypatch.setattr(machine, name, meter)


@pytest.fixture(autouse=True, scope="module")
def core():
    return require("core")


def run_with(monkeypatch, peers: dict[str, Peer], out: Path, rows=(SMALL,)) -> results.Results:
    """Run rows with rnnfast and fake peers; return what the file then holds."""
    monkeypatch.setattr(driver_module, "PEERS", peers)
    pythons = dict.fromkeys([OURS.name, *peers], sys.executable)
    with Driver(pythons, TINY_SECONDS, lambda _: None) as driver:
        driver.run(rows, out)
    return results.read(out)


def test_a_right_peer_is_timed(monkeypatch, fakes, tmp_path):
    found = run_with(monkeypatch, {n: fakes[n] for n in ("right", "noisy")}, tmp_path / "out")
    (row,) = found.rows.values()
    assert row["wrong"] == row["left_out"] == {}
    assert set(row["times"]) == {"rnnfast", "rnnfast plain", "right", "noisy"}
    for name, figures in row["times"].items():
        assert len(figures["times_us"]) == row["rounds"] >= 6, name
        assert figures["median_us"] > 0
        assert 0 <= figures["error"] <= 4
        assert ("ratio" in figures) == (name != "rnnfast")
        if "ratio" in figures:
            assert figures["low"] <= figures["ratio"] <= figures["high"]
        limit = row["limit_us"] / figures["median_us"]
        assert figures["of_limit"] == pytest.approx(limit, rel=1e-3)
        rates = itertools.islice(itertools.cycle((5e10, 1e11, 8e10)), row["rounds"])
        shares = [
            row["flops"] / us / rate * 1e6
            for us, rate in zip(figures["times_us"], rates, strict=True)
        ]
        assert figures["of_tile"] == pytest.approx(np.median(shares), rel=1e-3)
        gflops = row["flops"] / figures["median_us"] / 1e3
        assert figures["gflops"] == pytest.approx(gflops, rel=1e-3)
    assert row["times"]["rnnfast"]["kernel"].startswith("lstm.forward.f32.")
    assert row["flops"] == 2 * 6 * 32 * 13
    assert row["tile_gflops"] == pytest.approx(80, rel=0.25)  # the median of so many rates
    assert "cores_had" not in row
    parts = row["limit_parts_us"]
    assert row["limit_us"] == pytest.approx(
        max(parts["arithmetic"], parts["memory"]) + parts["activations"] + parts["steps"], rel=1e-3
    )
    assert parts["call"] == 0
    assert (row["peak_gflops"], row["peak_read_gbs"]) == (100, 400)
    assert min(row["activation_ns"], row["read_gbs"]) > 0
    assert row["explanation"] == explain(row) is not None
    assert found.versions["right"]["numpy"] == np.__version__
    assert found.peaks[1]["flops"]["float32"] == 1e11
    assert found.machines[0]["absent"] == {}


def test_states_are_those_of_the_plain_call(monkeypatch, fakes, tmp_path):
    """A prepared layer keeps none: the row names the plain call, and others stand against that."""
    rows = [replace(SMALL, option="states")]
    (row,) = run_with(monkeypatch, {}, tmp_path / "out", rows).rows.values()
    assert set(row["times"]) == {"rnnfast plain"}
    assert "ratio" not in row["times"]["rnnfast plain"]
    assert "explanation" in row
    text = report.table(results.read(tmp_path / "out"))
    titles, _, shown = ([c.strip() for c in line.split("|")] for line in text.splitlines()[:3])
    named = dict(zip(titles, shown, strict=True))
    assert float(named["rnnfast, µs"].replace(",", "")) > 0
    assert named["plain call, µs"] == "the same"


def test_two_threads_are_told_how_many_cores_they_had(monkeypatch, fakes, tmp_path):
    """In each round the tile is measured on both threads, then on one."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("this process may run on one core only")
    rates = itertools.cycle((5e10, 1e11, 8e10))
    monkeypatch.setattr(machine.Tile.func, "rate", lambda tile: next(rates) * len(tile._on))
    rows = [replace(SMALL, threads=2)]
    (row,) = run_with(monkeypatch, {}, tmp_path / "out", rows).rows.values()
    pairs = itertools.islice(itertools.cycle((1.0, 3.2, 2.5)), row["rounds"])
    assert row["cores_had"] == pytest.approx(np.median(list(pairs)))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_rows_that_differ_in_threads_may_share_their_rounds(monkeypatch, tmp_path):
    """All take their turns in each round, and what two threads cost and gain is taken in pairs."""
    turns = []
    turn = Driver._turn

    def noted(driver, contender, seconds):
        turns.append((contender.name, id(contender.process)))
        return turn(driver, contender, seconds)

    monkeypatch.setattr(Driver, "_turn", noted)
    monkeypatch.setattr(driver_module, "PEERS", {})
    rows = [replace(SMALL, threads=n) for n in (1, 2)]
    with Driver({OURS.name: sys.executable}, TINY_SECONDS, lambda _: None, True) as driver:
        driver.run([*rows, replace(SMALL, passed=TRAINING)], tmp_path / "out")
    one, two, alone = results.read(tmp_path / "out").rows.values()
    assert len(set(turns[:4])) == 4
    assert one["rounds"] == two["rounds"]
    assert len(turns) == 4 * one["rounds"] + alone["rounds"]
    for k in range(one["rounds"]):
        assert set(turns[4 * k : 4 * k + 4]) == set(turns[:4])
    assert "cores_had" in two
    assert "cores_had" not in one
    assert "beside_one_thread" not in one
    assert "beside_one_thread" not in alone
    speed_up = two["beside_one_thread"]["speed_up"]
    single, both = (row["times"]["rnnfast"]["times_us"] for row in (one, two))
    assert speed_up["ratio"] == pytest.approx(np.median(np.divide(single, both)), rel=0.01)
    assert speed_up["low"] <= speed_up["ratio"] <= speed_up["high"]
    assert two["beside_one_thread"]["cpu"]["ratio"] > 0


def test_all_threads_are_counted_to_the_last_moment(monkeypatch):
    """The clock of each is read before that of the process."""
    worker = runpy.run_path(str(Path(driver_module.__file__).parent / "worker.py"))
    before = time.thread_time()
    clock = time.clock_gettime(worker["clock_of"](threading.get_native_id()))
    assert before <= clock <= time.thread_time()
    read, process_time = [], time.process_time
    monkeypatch.setattr(time, "clock_gettime", lambda clock: read.append(~clock >> 3))

    def of_the_process():
        threads = {thread.native_id for thread in threading.enumerate()}
        assert threads <= set(read)
        return process_time()

    monkeypatch.setattr(time, "process_time", of_the_process)
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    try:
        assert 0 < worker["cpu_seconds"]() <= process_time()
        assert other.native_id in read
    finally:
        done.set()
        other.join()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("wrong", "of what the yardstick grants, allowed 4"),
        ("coarse", "of what the yardstick grants, allowed 4"),
        ("not a number", "its error is inf of what the yardstick grants"),
        ("short", "it returned no h_n"),
    ],
)
def test_a_wrong_result_is_said_and_not_timed(monkeypatch, fakes, tmp_path, name, reason):
    found = run_with(monkeypatch, {name: fakes[name]}, tmp_path / "out")
    (row,) = found.rows.values()
    assert reason in row["wrong"][name]
    assert set(row["times"]) == {"rnnfast", "rnnfast plain"}


def test_one_way_of_a_peer_may_be_wrong(monkeypatch, fakes, tmp_path):
    (row,) = run_with(monkeypatch, {"half": fakes["half"]}, tmp_path / "out").rows.values()
    assert set(row["wrong"]) == {"half bad"}
    assert "half" in row["times"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent", "ModuleNotFoundError: No module named 'a_library_that_is_not_installed'"),
        ("raising", "ValueError: no such operator"),
        ("without", "it has no lstm"),
        ("tired", "RuntimeError: enough"),
    ],
)
def test_who_is_left_out_is_named(monkeypatch, fakes, tmp_path, name, reason):
    """In each row, and the others are timed."""
    rows = [SMALL, Row("lstm", 4, 2, 5, 8)]
    found = run_with(monkeypatch, {name: fakes[name]}, tmp_path / "out", rows)
    assert len(found.rows) == 2
    for row in found.rows.values():
        assert row["left_out"] == {name: reason}
        assert set(row["times"]) == {"rnnfast", "rnnfast plain"}


def test_who_died_gets_another_process(monkeypatch, fakes, tmp_path):
    rows = [SMALL, Row("lstm", 4, 2, 5, 8)]
    found = run_with(monkeypatch, {"dying": fakes["dying"]}, tmp_path / "out", rows)
    first, second = found.rows.values()
    assert first["left_out"] == {"dying": "its process ended with status 3: a last word"}
    assert second["left_out"] == {}
    assert "dying" in second["times"]


def test_a_mute_peer_is_left_out(monkeypatch, fakes, tmp_path):
    monkeypatch.setattr(process, "ANSWER_SECONDS", 3.0)
    (row,) = run_with(monkeypatch, {"mute": fakes["mute"]}, tmp_path / "out").rows.values()
    assert row["left_out"] == {"mute": "no answer within 3 seconds"}


def test_all_build_at_once(monkeypatch, fakes, tmp_path):
    peers = {name: fakes[name] for name in ("one", "other")}
    (row,) = run_with(monkeypatch, peers, tmp_path / "out").rows.values()
    assert row["left_out"] == {}
    assert {"one", "other"} <= set(row["times"])


def test_a_long_call_is_not_done_more_often_than_needed(monkeypatch, fakes, tmp_path):
    (row,) = run_with(monkeypatch, {"long": fakes["long"]}, tmp_path / "out").rows.values()
    assert row["left_out"] == {}
    times = row["times"]["long"]["times_us"]
    assert len(times) == 6
    assert min(times) > 30000


def test_the_next_turn_waits_for_threads_that_spin(fakes, tmp_path):
    worker = Process(fakes["spinning"], sys.executable, 1, machine.cores(1))
    try:
        problem = Problem(SMALL)
        arrays = str(problem.write(tmp_path, "pytorch"))
        worker.ask(do="build", row=SMALL.fields(), arrays=arrays, folder=str(tmp_path))
        for most, least, less_than in ((20.0, 0.2, 10.0), (0.05, 0.05, 0.2), (20.0, 0.0, 10.0)):
            if least:
                worker.ask(do="time", way="", calls=1, warm=0)
            began = time.monotonic()
            worker.rest(most)
            assert least <= time.monotonic() - began < less_than
    finally:
        worker.close()


def test_what_a_peer_uses_while_it_rests_is_its_own(fakes, tmp_path):
    """Or its spinning threads would be taken for another process that disturbed the row."""
    worker = Process(fakes["spinning"], sys.executable, 1, machine.cores(1))
    try:
        arrays = str(Problem(SMALL).write(tmp_path, "pytorch"))
        worker.ask(do="build", row=SMALL.fields(), arrays=arrays, folder=str(tmp_path))
        worker.ask(do="time", way="", calls=1, warm=0)
        before = worker.cpu_seconds()
        worker.rest(20.0)
        assert worker.cpu_seconds() - before > 0.03  # of 0.3 that it spins
    finally:
        worker.close()
    assert math.isnan(worker.cpu_seconds())


def test_quick_rows_come_first(monkeypatch, tmp_path):
    rows = [Row("lstm", 3, 2, 5, 64), Row("gru", 3, 2, 5, 8), Row("rnn_tanh", 3, 2, 5, 64)]
    rows += [replace(row, passed=TRAINING) for row in rows]
    found = run_with(monkeypatch, {}, tmp_path / "out", rows)
    ran = [(row["cell"], row["passed"]) for row in found.rows.values()]
    assert ran == [(c, p) for c in ("gru", "rnn_tanh", "lstm") for p in (INFERENCE, TRAINING)]


def test_a_python_that_is_not_there(monkeypatch, fakes, tmp_path):
    monkeypatch.setattr(driver_module, "PEERS", {"right": fakes["right"]})
    pythons = {OURS.name: sys.executable, "right": "/nowhere/python"}
    with Driver(pythons, TINY_SECONDS, lambda _: None) as driver:
        driver.run([SMALL], tmp_path / "out")
    (row,) = results.read(tmp_path / "out").rows.values()
    assert row["left_out"]["right"] == "/nowhere/python does not run: No such file or directory"


def test_more_threads_than_cores(monkeypatch, tmp_path):
    many = Row("gru", 3, 2, 5, 8, threads=1000)
    (row,) = run_with(monkeypatch, {}, tmp_path / "out", [many]).rows.values()
    assert "1000 threads need as many cores, this process has" in row["left_out"]["rnnfast"]
    assert row["times"] == {}


def test_rnnfast_itself_may_be_wrong(monkeypatch, fakes, tmp_path):
    """Then the row says so, nobody has a ratio, and the run counts it."""
    ours = Peer("rnnfast", "rnnfast", fakes["wrong"].file, package=True)
    monkeypatch.setattr(driver_module, "OURS", ours)
    monkeypatch.setattr(driver_module, "PEERS", {"right": fakes["right"]})
    said = []
    with Driver(dict.fromkeys(("rnnfast", "right"), sys.executable), 0.001, said.append) as driver:
        assert driver.run([SMALL], tmp_path / "out") == 1
    (row,) = results.read(tmp_path / "out").rows.values()
    assert "allowed 1" in row["wrong"]["rnnfast"]
    assert set(row["times"]) == {"right"}
    assert "ratio" not in row["times"]["right"]
    assert "rnnfast WRONG" in said[0]


def test_peers_that_were_not_given_are_named(tmp_path):
    with Driver({"rnnfast": sys.executable}, TINY_SECONDS, lambda _: None) as driver:
        driver.run([SMALL], tmp_path / "out")
    (head,) = results.read(tmp_path / "out").machines
    assert head["absent"] == dict.fromkeys(PEERS, "no environment was given")


def test_unknown_peers_are_refused():
    for pythons in ({"rnnfast": "x", "nobody": "x"}, {"numpy": "x"}):
        with pytest.raises(rnnfast.ArgumentError, match=r"is no peer|no Python was given"):
            Driver(pythons, 1, print)


# The command ------------------------------------------------------------------------------------


def test_real_rows_and_resuming(tmp_path, capsys):
    """Rnnfast and NumPy; run again, only what is missing is done; with --again everything."""
    require("cli")
    out = tmp_path / "out.jsonl"
    rows = ["--rows", "lstm.*.f32.10x32x1x64.t1"]
    command = ["bench", "run", "--out", str(out), "--seconds", "0.01", *rows]
    assert main([*command, "--pass", "inference"]) == 0
    assert "1/1" in capsys.readouterr().out
    first = out.read_text()
    found = results.read(out)
    (row,) = found.rows.values()
    assert set(row["times"]) == {"rnnfast", "rnnfast plain", "numpy"}
    assert row["wrong"] == {}
    assert set(found.machines[0]["absent"]) == set(PEERS) - {"numpy"}

    assert main(command) == 0
    said = capsys.readouterr().out
    assert "1 of 2 rows are in" in said
    assert "forward+backward" in said
    assert out.read_text().startswith(first)
    assert len(results.read(out).rows) == 2

    assert main(command) == 0
    assert "2 of 2 rows are in" in capsys.readouterr().out
    assert main([*command, "--again", "--without", "numpy"]) == 0
    assert "2/2" in capsys.readouterr().out
    assert all("numpy" not in row["times"] for row in results.read(out).rows.values())


def test_a_file_of_another_commit_is_refused(tmp_path, capsys):
    require("cli")
    out = tmp_path / "out.jsonl"
    head = {"kind": "machine", **machine.describe(), "absent": {}, "commit": "0123abc"}
    results.append(out, head)
    row = ["--rows", "gru.inference.f32.10x32x1x64.t1", "--seconds", "0.01"]
    assert main(["bench", "run", "--out", str(out), *row]) == 1
    assert "has results of commit 0123abc, this is" in capsys.readouterr().err
    assert len(out.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--peer", "torch"], "--peer is 'torch', expected NAME=PYTHON"),
        (["run", "--peer", "x=y"], "'x' is no peer; there are numpy, torch"),
        (["run", "--without", "x"], "'x' is no peer"),
        (["run", "--peers", "."], "has no environment of a peer"),
        (["run", "--rows", "x"], "rows is 'x', which fits no row"),
        (["peers", "environments", "x"], "'x' is no peer"),
        (["peers", "environments", "--requirements", "nowhere"], "numpy.txt is not there"),
        (["table"], "expected either FILE"),
        (["table", "nothing.jsonl"], "nothing.jsonl cannot be read"),
    ],
)
def test_the_command_refuses_in_words(tmp_path, monkeypatch, capsys, arguments, said):
    require("cli")
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *arguments]) == 1
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# The file ---------------------------------------------------------------------------------------


def test_missing_rows(tmp_path):
    out = tmp_path / "out"
    rows = [SMALL, Row("gru", 3, 2, 5, 8)]
    assert missing_rows(rows, out, False) == rows
    results.append(out, {"kind": "machine", **machine.describe()})
    results.append(out, {"kind": "row", "id": SMALL.id})
    assert missing_rows(rows, out, False) == rows[1:]
    assert missing_rows(rows, out, True) == rows


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"kind": "row", "id": "a"}\n{"kind": "ro', "line 2"),
        ('{"kind": "row", "id": "a"}', "line 1"),
        ('{"kind": "row"}\n', "line 1"),
        ('{"kind": "other"}\n', "line 1"),
        ("[]\n", "line 1"),
        ("hello\n", "line 1"),
    ],
)
def test_a_broken_file_is_refused(tmp_path, text, where):
    (tmp_path / "out").write_text(text)
    with pytest.raises(rnnfast.ArgumentError, match=f"{where} is not a line of results"):
        results.read(tmp_path / "out")


def test_rows_are_read_in_the_order_of_the_grid(tmp_path):
    out = tmp_path / "out"
    ids = [GRID[5].id, "an older one", GRID[2].id, GRID[5].id, "another"]
    for id in ids:
        results.append(out, {"kind": "row", "id": id})
    assert list(results.read(out).rows) == [GRID[2].id, GRID[5].id, "an older one", "another"]


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    out = tmp_path / "out"
    results.append(out, {"kind": "row", "id": "a"})
    before = out.read_bytes()
    write = results.os.write
    monkeypatch.setattr(results.os, "write", lambda file, data: write(file, data[:7]))
    with pytest.raises(OSError, match="the file is as it was"):
        results.append(out, {"kind": "row", "id": "b"})
    assert out.read_bytes() == before


# The check --------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", ["pytorch", "onnx", "keras"])
@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru"])
def test_arrays_travel_in_the_form_of_a_system(tmp_path, cell, system):
    """Weights returned as if they were gradients come back under our names and in our order."""
    problem = Problem(Row(cell, 2, 3, 5, 8, 2, TRAINING))
    with np.load(problem.write(tmp_path, system)) as file:
        given = {name: file[name] for name in file.files}
    for name, array in problem.arrays.items():
        np.testing.assert_array_equal(given.pop(name), array)
    returned = {"d:" + name.removeprefix("w:"): array for name, array in given.items()}
    np.savez(tmp_path / "returned.npz", y=problem.arrays["x"], **returned)
    found = problem.read(tmp_path / "returned.npz", system)
    np.testing.assert_array_equal(found.pop("y"), problem.arrays["x"])
    one_bias = system == "keras" and cell != "gru"
    expected = dict(problem.parameters)
    if one_bias:
        for layer in range(2):
            expected[f"bias_ih_l{layer}"] = expected[f"bias_ih_l{layer}"] + expected.pop(
                f"bias_hh_l{layer}"
            )
    assert found.keys() == {"d" + name for name in expected}
    for name, array in expected.items():
        np.testing.assert_array_equal(found["d" + name], array, err_msg=name)
    some = {name: array for name, array in returned.items() if name != sorted(returned)[0]}
    np.savez(tmp_path / "returned.npz", **some)
    with pytest.raises(KeyError):
        problem.read(tmp_path / "returned.npz", system)


@pytest.mark.parametrize("option", ["", "reset", "lengths", "states", "recurrent_dropout"])
def test_the_reference_is_that_of_the_layers(option):
    """The judge's own way through layers and options gives what the public layers give."""
    row = Row("lstm", 7, 3, 5, 6, 2 if not option else 1, TRAINING, "float64", 1, option)
    problem = Problem(row)
    arrays = problem.arrays
    chosen = {"recurrent_dropout": DROPOUT} if option == "recurrent_dropout" else {}
    layer = rnnfast.LSTM(5, 6, row.L, dtype="float64", device="numpy", **chosen)
    layer.load_state_dict(problem.parameters)
    steps = {name: arrays[name] for name in ("reset", "lengths") if name in arrays}
    masks = {"training": True, "seed": SEED} if chosen else {}
    y, (h, c), tape = layer.forward(arrays["x"], (arrays["h0"], arrays["c0"]), **steps, **masks)
    dstates = rnnfast.States(None, arrays["dc"], None) if option == "states" else None
    gradients = layer.backward(tape, arrays["dy"], dstates=dstates)
    expected = {"y": y, "h_n": h, "c_n": c, "dx": gradients.x}
    expected |= dict(zip(("dh0", "dc0"), gradients.state, strict=True))
    expected |= {"d" + name: array for name, array in gradients.parameters.items()}
    if option == "states":
        expected["c"] = tape.states().c
    found = reference(problem, np.dtype("float64"), True)
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_the_judge():
    """One with gradients judges a pass without them too, and says so where they come or lack."""
    problem = Problem(SMALL)
    plain = reference(problem, np.dtype("float32"), False)
    for judge in (Judge(problem, False), Judge(problem, True)):
        # Twice plain's own error is granted, and something besides.
        assert judge.error(plain, False) <= 0.5
        off = {**plain, "y": plain["y"] + np.float32(1e-3)}
        assert judge.error(off, False) > 100
        with pytest.raises(ValueError, match="no c_n and unexpected z"):
            judge.error({"y": plain["y"], "h_n": plain["h_n"], "z": plain["y"]}, False)
        with pytest.raises(
            ValueError, match=r"y is float64 of shape \(3, 2, 8\), expected float32"
        ):
            judge.error({**plain, "y": plain["y"].astype(float)}, False)
        with pytest.raises(ValueError, match=r"y is float32 of shape \(2, 3, 8\)"):
            judge.error({**plain, "y": plain["y"].swapaxes(0, 1)}, False)
        with pytest.raises(ValueError, match="unexpected dx"):
            judge.error({**plain, "dx": plain["y"]}, False)
    both = reference(problem, np.dtype("float32"), True)
    assert judge.error(both, True) <= 0.5
    with pytest.raises(ValueError, match="no dh0, dc0, dx"):
        judge.error(
            {**plain, **{n: a for n, a in both.items() if n.startswith(("dw", "db"))}}, True
        )


CASES = [
    Row(cell, 6, 3, 5, 8, L, passed, dtype)
    for cell in ("rnn_tanh", "rnn_relu", "lstm", "gru")
    for L, passed, dtype in (
        (1, "inference", "float32"),
        (2, "inference", "float32"),
        (2, TRAINING, "float32"),
        (1, TRAINING, "float64"),
    )
]
# Not a multiple of the steps that a way may take at once.
CASES.append(Row("lstm", 11, 3, 5, 8, passed=TRAINING))
CASES += [Row(cell, 1, 1, 5, 8) for cell in ("rnn_tanh", "lstm", "gru")]
OPTION_CASES = [
    Row(cell, 40, 5, 5, 8, 1, TRAINING, option=option)
    for option in ("reset", "lengths", "recurrent_dropout", "states")
    for cell in ("rnn_tanh", "lstm", "gru")
    if option != "states" or cell == "lstm"
]


@pytest.mark.parametrize("name", ["rnnfast", *PEERS])
def test_peers_compute_the_same(name, tmp_path):
    """Of every peer that is here: whatever it offers is right, in its own form of the weights."""
    peer = OURS if name == "rnnfast" else PEERS[name]
    if name in ("torch", "onnxruntime", "jax"):
        require(name)
    elif name == "keras":
        require("keras")
        require("tensorflow")
    elif name == "openvino":
        pytest.importorskip(name)
    worker = Process(peer, sys.executable, 1, machine.cores(1))
    ways = set()
    try:
        for row in CASES + OPTION_CASES:
            problem = Problem(row)
            assert problem.arrays.get("reset", np.ones(1)).any()
            arrays = problem.write(tmp_path, peer.system)
            request = {"row": row.fields(), "arrays": str(arrays), "folder": str(tmp_path)}
            answer = worker.ask(do="build", **request)
            if "lacks" in answer:
                assert name not in ("rnnfast", "torch"), row.id
                continue
            judge = Judge(problem, row.backward)
            for way, said in answer["ways"].items():
                ways.add(way)
                found = problem.read(Path(said["results"]), peer.system)
                assert judge.error(found, row.backward, peer.complete) <= 4, (row.id, way)
                timed = worker.ask(do="time", way=way, calls=2, warm=1)
                assert timed["wall"] > 0
                assert timed["cpu"] >= 0
    finally:
        worker.close()
    more = {
        "rnnfast": {"plain", "stream"},
        "torch": {"cell", "packed", "loop"},
        "jax": {"unroll"},
    }
    assert ways == {"", *more.get(name, ())}


def test_every_peer_has_a_pinned_list():
    folder = Path(__file__).resolve().parent.parent / "benchmarks" / "peers"
    assert {path.stem for path in folder.glob("*.txt")} == set(PEERS)
    for path in folder.glob("*.txt"):
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        assert lines
        assert all("==" in line for line in lines), path


def test_a_closed_process_says_so():
    worker = Process(PEERS["numpy"], sys.executable, 1, machine.cores(1))
    with pytest.raises(WorkerError, match="KeyError"):
        worker.ask(do="time", way="none", calls=1, warm=0)
    assert worker.ask(do="drop") == {}
    worker.close()
    assert not worker.alive


# Lines of a file are JSON that others can read: no NaN.
def test_lines_have_no_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        results.append(tmp_path / "out", {"kind": "row", "id": "a", "x": float("nan")})
    assert not (tmp_path / "out").exists()
    results.append(tmp_path / "out", {"kind": "row", "id": "a", "x": None})
    assert json.loads((tmp_path / "out").read_text())["x"] is None
