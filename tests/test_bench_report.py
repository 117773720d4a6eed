"""The table and the picture of a small sample, pages that hold tables, and how peaks are measured.

tests/data/bench_sample.jsonl has some lines of a run of 0.1 seconds per row on a busy machine: a
sample of the form, not of the speed.
"""

import os
import re
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import require

import rnnfast
from rnnfast.bench import machine, pages, picture, report, results, summary
from rnnfast.bench.machine import Peaks
from rnnfast.cli import main

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "tests" / "data" / "bench_sample.jsonl"
PAGES = [page for page in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"))]


@pytest.fixture
def sample():
    return results.read(SAMPLE)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_table(sample):
    text = report.table(sample)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(sample.rows)
    assert len({len(cells(line)) for line in lines}) == 1
    titles = cells(lines[0])
    table = {
        id: dict(zip(titles, cells(line), strict=True))
        for id, line in zip(sample.rows, lines[2:], strict=True)
    }

    step = sample.rows["lstm.inference.f32.1x1x64x64.t1"]
    shown = table[step["id"]]
    assert (shown["layer"], shown["T, B, I, H"], shown["threads"]) == ("LSTM", "1, 1, 64, 64", "1")
    times = step["times"]
    assert shown["rnnfast, µs"] == f"{times['rnnfast']['median_us']:.4g}"
    plain, stream = (f"{times[f'rnnfast {way}']['median_us']:.4g}" for way in ("plain", "stream"))
    assert shown["plain call, µs"] == f"{plain}, stream {stream}"
    assert shown["of the limit"] == f"{times['rnnfast']['of_limit']:.0%}"
    # Of two ways of PyTorch the faster one.
    assert times["torch cell"]["median_us"] < times["torch"]["median_us"]
    cell = times["torch cell"]
    assert shown["PyTorch"] == f"{cell['ratio']:.2f} (≥ {cell['low']:.2f})"

    times["rnnfast"]["median_us"] = times["rnnfast plain"]["median_us"] = 1234567.0
    alone = cells(report.table(sample, [step["id"]]).splitlines()[2])
    named = dict(zip(titles, alone, strict=True))
    assert named["rnnfast, µs"] == "1,234,567"
    assert named["plain call, µs"].startswith("1,234,567, stream")

    training = table["lstm.forward+backward.f32.128x8x64x64.t1"]
    assert training["pass"] == "forward+backward"
    assert training["ONNX Runtime"] == training["OpenVINO"] == "-"
    assert training["plain call, µs"] == ""
    assert training["rnnfast, µs"].startswith("1,")
    assert table["gru.forward+backward.f64.128x8x64x64.t1"]["layer"] == "GRU, float64"
    assert table["lstm+lengths.forward+backward.f32.128x8x64x64.t1"]["layer"] == "LSTM, lengths"

    assert "cores had" not in titles  # the file is older than that
    sample.rows["gru.forward+backward.f64.128x8x64x64.t1"]["cores_had"] = 1.26
    shown = [cells(line)[4] for line in report.table(sample).splitlines() if line.startswith("|")]
    assert shown[0] == "cores had"
    assert sorted(shown[2:]) == [""] * (len(sample.rows) - 1) + ["1.3"]

    notes = text.split("\n\n")[1]
    head = sample.machines[0]
    assert head["cpu"] in notes
    assert head["commit"] in notes
    assert "torch 2.13.0" in notes
    assert "Peaks with 1 thread: 189 of float32" in notes
    assert "other processes used 1.4 cores while peaks were measured" in notes
    assert "onnxruntime: it has no backward pass (" in notes


def test_what_all_rows_come_to(sample):
    notes = report.table(sample, ["gru.*"]).split("\n\n")[1]
    best, torch = (1.347 * 1.586) ** 0.5, (1.447 * 7.598) ** 0.5
    assert (
        "Inference, 2 rows of float32 with T > 1 and no option: the fastest peer took "
        f"{best:.2f} times ours (geometric mean), PyTorch {torch:.2f} times; a peer was faster in "
        "none." in notes
    )
    times = sample.rows["lstm.forward+backward.f32.128x8x64x64.t1"]["times"]
    times["jax"]["ratio"] = times["jax"]["median_us"] = 0.5
    del times["torch"]
    assert (
        "Forward+backward, 1 rows of float32 with T > 1 and no option: the fastest peer took 0.50 "
        "times ours (geometric mean); a peer was faster in "
        "lstm.forward+backward.f32.128x8x64x64.t1." in report.table(sample)
    )


def test_table_of_some_rows(sample):
    text = report.table(sample, ["gru.*", "rnn*"])
    assert sum(line.startswith("|") for line in text.splitlines()) == 2 + 2
    with pytest.raises(rnnfast.ArgumentError, match="no row fits keras"):
        report.table(sample, ["keras*"])


def test_what_is_wrong_or_alone_is_shown(sample):
    (row,) = (row for id, row in sample.rows.items() if id.startswith("rnn_tanh"))
    row["wrong"] = {"jax": "its error is 7 of what the yardstick grants, allowed 4"}
    del row["times"]["jax"], row["times"]["rnnfast"]
    del row["times"]["torch"]["ratio"]
    text = report.table(sample, ["rnn_tanh*"])
    titles, _, shown = (cells(line) for line in text.splitlines()[:3])
    assert "JAX" not in titles  # nowhere in this table
    sample.rows["lstm.inference.f32.128x8x64x64.t1"]["id"] = "with JAX"
    text = report.table(sample)
    titles = cells(text.splitlines()[0])
    shown = next(cells(line) for line in text.splitlines() if line.startswith("| RNN"))
    named = dict(zip(titles, shown, strict=True))
    assert named["JAX"] == "wrong"
    assert named["rnnfast, µs"] == named["of the limit"] == "-"
    assert named["PyTorch"].endswith(" µs")
    assert "jax, wrong: its error is 7" in text


def test_a_page_is_filled_between_its_comments(tmp_path, sample):
    page = tmp_path / "page.md"
    (tmp_path / "file.jsonl").write_bytes(SAMPLE.read_bytes())
    begin = '<!-- rnnfast bench table file.jsonl --rows "gru.*" -->'
    other = "<!-- rnnfast bench table nowhere.jsonl -->"
    end = "<!-- end of table -->"
    last = "<!-- rnnfast bench summary file.jsonl -->\n", "<!-- end of summary -->\n"
    page.write_text(
        f"above\n{begin}\nold\n{end}\nbetween\n{other}\n{end}\nbelow\n{'old'.join(last)}"
    )
    filled = pages.fill(page)
    made = report.table(sample, ["gru.*"])
    none = pages.NONE_YET
    expected = f"above\n{begin}\n\n{made}\n{end}\nbetween\n{other}\n\n{none}\n{end}\nbelow\n"
    expected += f"\n{summary.summary(sample)}\n".join(last)
    assert filled == expected
    page.write_text(filled)
    assert pages.fill(page) == filled

    page.write_text("nothing here")
    with pytest.raises(rnnfast.ArgumentError, match="has no comment"):
        pages.fill(page)
    page.write_text(f"<!-- rnnfast bench table file.jsonl gru.* -->\n{end}")
    with pytest.raises(rnnfast.ArgumentError, match=r"asks for 'file.jsonl gru.\*', expected FILE"):
        pages.fill(page)
    page.write_text("--rows x".join(last).replace(" -->\n--rows x", " --rows x -->\n"))
    with pytest.raises(rnnfast.ArgumentError, match=r"'file.jsonl --rows x', expected FILE$"):
        pages.fill(page)


def test_readme_shows_the_committed_results():
    """Each page with a table has what its results generate: or says that there are none yet."""
    holding = [page for page in PAGES if pages.MARK.search(page.read_text("utf-8"))]
    assert {ROOT / "README.md", ROOT / "docs" / "benchmarks.md"} <= set(holding)
    for page in holding:
        assert page.read_text("utf-8") == pages.fill(page), (
            f"`rnnfast bench table --into {page.name}` renews it"
        )


def test_the_commands(tmp_path, capsys):
    require("cli")
    assert main(["bench", "table", str(SAMPLE), "--rows", "gru.*"]) == 0
    assert capsys.readouterr().out == report.table(results.read(SAMPLE), ["gru.*"])
    assert main(["bench", "summary", str(SAMPLE)]) == 0
    assert capsys.readouterr().out == summary.summary(results.read(SAMPLE))
    assert main(["bench", "table", str(SAMPLE), "--below"]) == 0
    assert capsys.readouterr().out == report.below(results.read(SAMPLE))
    page = tmp_path / "page.md"
    page.write_text("<!-- rnnfast bench table x.jsonl -->\n<!-- end of table -->\n")
    assert main(["bench", "table", "--into", str(page)]) == 0
    assert pages.NONE_YET in page.read_text()
    drawing = tmp_path / "drawing.png"
    assert main(["bench", "picture", str(SAMPLE), str(drawing), "--threads", "1"]) == 0
    head = results.read(SAMPLE).machines[-1]
    assert words_of(drawing)["Title"] == (
        f"{head['cpu']}, 1 thread, float32, commit {head['commit']}"
    )
    assert main(["bench", "picture", str(SAMPLE), str(drawing), "--threads", "2"]) == 1
    assert "no plain float32 row of 2 threads has times" in capsys.readouterr().err


def test_the_picture_has_a_mark_for_each_contender(sample, tmp_path, monkeypatch):
    require("cli")
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: drawn.append(self))
    picture.draw(sample, tmp_path / "x.png", 1)
    (figure,) = drawn
    panels = {panel.get_title(): panel for panel in figure.axes}
    # float32, without options: the LSTM's three rows and the RNN's one.
    assert {title for title, panel in panels.items() if panel.lines[:-1]} == {
        "LSTM, inference",
        "LSTM, forward+backward",
        "RNN, inference",
    }
    row = sample.rows["lstm.forward+backward.f32.128x8x64x64.t1"]
    found = {
        line.get_label(): line.get_xdata()[0]
        for line in panels["LSTM, forward+backward"].lines
        if not line.get_label().startswith("_")
    }
    assert set(found) == {"rnnfast", "NumPy loop", "PyTorch", "JAX", "Keras on TensorFlow"}
    times = row["times"]
    assert found["rnnfast"] == pytest.approx(times["rnnfast"]["median_us"] / row["limit_us"])
    assert found["JAX"] == pytest.approx(times["jax"]["median_us"] / row["limit_us"])


def words_of(path: Path) -> dict[str, str]:
    """The words that a PNG holds: chunks of a length, a kind, the content and a check sum."""
    data, words, at = path.read_bytes(), {}, 8
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"tEXt":
            name, _, text = data[at + 8 : at + 8 + size].partition(b"\0")
            words[name.decode()] = text.decode()
        at += 12 + size
    return words


def test_the_page_says_what_its_picture_shows():
    """Machine, threads and commit: the page shows it with the words that the picture itself has."""
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    (said,) = re.findall(r"!\[([^]]*)\]\(images/benchmarks.png\)", page)
    title = words_of(ROOT / "docs" / "images" / "benchmarks.png")["Title"]
    assert said == f"{title}: time over the limit, row by row, for rnnfast and its peers"


# The machine ------------------------------------------------------------------------------------


def test_the_compiled_measures():
    core = require("core")
    words = np.random.default_rng(0).integers(0, 2**63, 64 * 5).astype(np.uint64)
    assert core._read_memory(words, 1) == np.bitwise_xor.reduce(words)
    assert core._read_memory(words, 2) == 0
    assert core._read_memory(words, 3) == np.bitwise_xor.reduce(words)
    with pytest.raises(ValueError, match="data has 504 bytes, expected a multiple of"):
        core._read_memory(words[:63], 1)
    with pytest.raises(TypeError):
        core._read_memory(words.astype(np.float64), 1)
    lanes = {"avx512": 16, "avx2": 8}.get(core.isa(), 4)
    assert core._multiply_add_f32(1000) == 1000 * 12 * 2 * lanes
    assert core._multiply_add_f64(1000) == 1000 * 12 * lanes
    # 16 KiB of weights, 4 vectors wide, times a tile's rows.
    rows = {"avx512": 6, "avx2": 3, "neon": 6}.get(core.isa(), 2)
    assert core._tile_product_f32(10) == 10 * 2 * rows * 4096
    assert core._tile_product_f64(10) == 10 * 2 * rows * 2048


def test_peaks_are_measured(monkeypatch):
    require("core")
    small = {"L1": 32 << 10, "L2": 256 << 10, "L3": 2 << 20}
    monkeypatch.setattr(machine, "caches", lambda: small)
    monkeypatch.setattr(machine, "_working_sets", lambda *_: dict.fromkeys(small, 8192))
    for threads in range(1, min(2, len(os.sched_getaffinity(0))) + 1):
        peaks = machine.measure_peaks(threads, seconds=0.001)
        assert peaks.threads == threads
        assert peaks.caches == small
        assert peaks.others >= 0
        rates = [machine.Tile(threads, dtype, 0.001).rate() for dtype in peaks.flops]
        rates += [machine.Activation(dtype, 0.001).rate() for dtype in peaks.flops]
        rates += [machine.Read(threads, size, 0.001).rate() for size in (3, 1000, 100_000)]
        for rate in (*peaks.flops.values(), *peaks.read.values(), *rates):
            assert 0 < rate < np.inf


def test_working_sets():
    """Each inside its level: half of L1 and L2; beyond L2; beyond L3, but not all of memory."""
    sizes = {"L1": 48 << 10, "L2": 1 << 20, "L3": 32 << 20}
    one, two = (machine._working_sets(sizes, n) for n in (1, 2))
    assert one == {
        "L1": 24 << 10,
        "L2": 512 << 10,
        "L3": 8 << 20,
        "L3 edge": 24 << 20,
        "DRAM": 256 << 20,
    }
    assert two["L1"] == one["L1"]
    assert 2 * two["L3"] == one["L3"]
    assert 2 * two["DRAM"] == one["DRAM"]


def test_threads_work_together_and_their_errors_come_out():
    met = threading.Barrier(2, timeout=30)

    def work(rounds, argument):
        met.wait()  # both are here at once
        return argument

    done, took = machine._together(work, 1, [2.0, 3.0], (machine.cores(1)[0],) * 2)
    assert done == 5
    assert took > 0

    def failing(rounds, argument):
        raise RuntimeError("no such thing")

    with pytest.raises(RuntimeError, match="no such thing"):
        machine._together(failing, 1, [None], machine.cores(1))


def test_a_disturbed_try_makes_no_measurement_short(monkeypatch):
    """The first of all tries takes a second, others a millisecond per round: ten are needed."""
    taken = iter([1.0])
    monkeypatch.setattr(
        machine, "_together", lambda work, rounds, *_: (0.0, next(taken, rounds * 1e-3))
    )
    assert machine._rounds(lambda *_: 0.0, [], (), 0.01) >= 10


def test_remarks_on_peaks(monkeypatch):
    known = {"vendor_id": "AuthenticAMD", "cpu family": "26", "model": "2", "model name": "Zen"}
    monkeypatch.setattr(machine, "_cpu", lambda: known)
    read = {"L1": 480e9, "L2": 220e9, "L3": 110e9, "L3 edge": 92e9, "DRAM": 42e9}
    caches = {"L1": 48 << 10, "L2": 1 << 20, "L3": 32 << 20}

    def peaks(others=0.0, **changed):
        flops = {"float32": changed.pop("float32", 260e9), "float64": 130e9}
        return Peaks(1, flops, {**read, **changed}, caches, others)

    assert machine.remarks_on(peaks()) == []
    assert machine.remarks_on(peaks(DRAM=41e9 * 0.951)) == []
    unknown = "no cause measured"
    assert machine.remarks_on(peaks(DRAM=41e9 * 0.94)) == [
        f"DRAM 39 GB/s, earlier 41 to 44: {unknown}"
    ]
    assert machine.remarks_on(peaks(L1=477e9 * 1.06)) == [f"L1 506 GB/s, earlier 477: {unknown}"]
    assert machine.remarks_on(peaks(float32=200e9)) == [
        f"float32 200 GFLOP/s, earlier 259 to 261: {unknown}"
    ]
    clock = "as with another clock,"
    side = "off to the same side too"
    assert machine.remarks_on(peaks(float32=200e9, L1=370e9, L2=170e9, DRAM=30e9)) == [
        f"float32 200 GFLOP/s, earlier 259 to 261: {clock} L1 and L2 {side}",
        f"L1 370 GB/s, earlier 477: {clock} float32 and L2 {side}",
        f"L2 170 GB/s, earlier 195 to 250: {clock} float32 and L1 {side}",
        f"DRAM 30 GB/s, earlier 41 to 44: {unknown}",
    ]
    assert machine.remarks_on(peaks(float32=200e9, L1=600e9)) == [
        f"float32 200 GFLOP/s, earlier 259 to 261: {unknown}",
        f"L1 600 GB/s, earlier 477: {unknown}",
    ]
    busy, low, high = machine.remarks_on(peaks(others=0.5, L1=400e9, DRAM=60e9))
    assert (
        busy == "other processes used 0.5 cores while peaks were measured, which are too low then"
    )
    assert low == "L1 400 GB/s, earlier 477: others used the cores"
    assert high == f"DRAM 60 GB/s, earlier 41 to 44: {unknown}"
    monkeypatch.setitem(known, "model", "3")
    assert machine.remarks_on(peaks()) == ["no earlier peaks of Zen to compare with"]


def test_the_machine_is_described():
    require("core")
    said = machine.describe(more=1)
    assert said["rnnfast"] == rnnfast.__version__
    assert said["more"] == 1
    assert said["caches"].keys() == {"L1", "L2", "L3"}
    assert said["commit"]
    with pytest.raises(rnnfast.DeviceError, match="1000 threads need as many cores"):
        machine.cores(1000)
