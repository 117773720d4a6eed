"""Ratios and their intervals on data whose answers are known; verdicts on two files."""

import json
import math

import numpy as np
import pytest

import rnnfast
from rnnfast.bench import compare, results
from rnnfast.bench.statistics import ratio_of_pairs, ratio_of_samples
from rnnfast.cli import main


def test_pairs_cancel_what_meets_both():
    """A machine that slows down tenfold in the middle changes no ratio of pairs."""
    drift = np.repeat([1.0, 10.0], 10)
    assert ratio_of_pairs(2 * drift, drift) == (2.0, 2.0, 2.0)


def test_median_of_ratios():
    assert ratio_of_pairs([1, 4, 9], [1, 2, 3]) == (2, 1, 3)  # too few to leave one out


@pytest.mark.parametrize(("n", "k"), [(6, 1), (8, 1), (9, 2), (10, 2), (11, 2), (12, 3), (20, 6)])
def test_ranks(n, k):
    """Those of the sign test's tables."""
    values = np.random.default_rng(0).permutation(n) + 1.0
    assert ratio_of_pairs(values, np.ones(n)) == ((n + 1) / 2, k, n + 1 - k)


def test_intervals_hold_the_true_ratio():
    """In at least 95 % of many trials; for pairs of ten rounds 97.9 % by the table."""
    rng = np.random.default_rng(0)
    noise = np.exp(0.1 * rng.standard_normal((2000, 2, 10)))
    for function in (ratio_of_pairs, ratio_of_samples):
        estimates = [function(3 * top, bottom) for top, bottom in noise]
        held = np.mean([e.low <= 3 <= e.high for e in estimates])
        assert 0.95 <= held < 1, function
        if function is ratio_of_pairs:
            assert abs(held - 0.979) < 0.01
        assert all(e.low <= e.ratio <= e.high for e in estimates)


def test_samples_need_no_pairs():
    assert ratio_of_samples([2, 2, 2, 2], [1, 1, 1]) == (2, 2, 2)


def row(id, ours, **others):
    """A row as a file has it: times of rnnfast in a row, and one median per other name."""
    times = {"rnnfast": {"times_us": ours, "median_us": float(np.median(ours))}}
    for name, median in others.items():
        times[name] = {"times_us": [median], "median_us": median}
    return {"kind": "row", "id": id, "times": times}


def of(*rows):
    found = results.Results()
    found.rows = {r["id"]: r for r in rows}
    return found


STEADY = [100.0, 101.0, 99.5, 100.0, 100.5, 99.8]


@pytest.mark.parametrize(
    ("factor", "word"),
    [
        (0.5, "faster"),
        (0.94, "faster"),
        (0.98, "same"),
        (1.0, "same"),
        (1.02, "same"),
        (1.1, "slower"),
    ],
)
def test_verdicts(factor, word):
    after = [factor * t for t in STEADY]
    (verdict,) = compare.compare(of(row("a", STEADY)), of(row("a", after)))
    assert verdict.word == word
    assert verdict.change.ratio == pytest.approx(factor)
    assert math.isnan(verdict.drift)


def test_a_wide_interval_is_no_verdict():
    """Half of the rounds took twice as long: slower by the median perhaps, but not surely."""
    noisy = [100.0, 200.0, 100.0, 200.0, 200.0, 200.0]
    (verdict,) = compare.compare(of(row("a", STEADY)), of(row("a", noisy)))
    assert verdict.change.ratio == pytest.approx(2)
    assert verdict.word == "same"
    (verdict,) = compare.compare(of(row("a", noisy)), of(row("a", STEADY)))
    assert verdict.change.ratio == pytest.approx(0.5)
    assert verdict.word == "same"


def test_drift_of_the_machine_is_taken_off():
    """Everything takes 1.3 times as long, peers too: the machine, not the build."""
    slow = [1.3 * t for t in STEADY]
    before = of(row("a", STEADY, torch=200.0, numpy=300.0))
    (verdict,) = compare.compare(before, of(row("a", slow, torch=260.0, numpy=390.0)))
    assert verdict.drift == pytest.approx(1.3)
    assert verdict.word == "same"
    (verdict,) = compare.compare(before, of(row("a", STEADY, torch=260.0, numpy=390.0)))
    assert verdict.word == "faster"


def test_rows_of_one_file_only():
    before, after = of(row("a", STEADY), row("b", STEADY)), of(row("b", STEADY), row("c", STEADY))
    assert [v.id for v in compare.compare(before, after)] == ["b"]
    assert compare.unpaired(before, after) == ["only in the first: a", "only in the second: c"]


def test_files_of_two_machines_are_refused():
    """As `run` does; another commit is what a comparison is for."""
    before, after = of(row("a", STEADY)), of(row("a", STEADY))
    before.machines = [{"cpu": "this", "isa": "avx2", "commit": "1"}]
    for what, other in (("cpu", "that"), ("isa", "baseline")):
        after.machines = [before.machines[0] | {what: other}]
        with pytest.raises(
            rnnfast.ArgumentError, match=f"has results of {what} .*, the second of {other}"
        ):
            list(compare.compare(before, after))
    after.machines = [before.machines[0] | {"commit": "2"}]
    assert len(list(compare.compare(before, after))) == 1


def test_the_command(tmp_path, capsys):
    pytest.importorskip("typer")
    slow = [1.5 * t for t in STEADY]
    files = {"old": STEADY, "slow": slow}
    for name, times in files.items():
        lines = [row("x.t1", times, torch=1.0), row("only " + name, times)]
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["bench", "compare", str(tmp_path / "old"), str(tmp_path / "slow")]) == 1
    said = capsys.readouterr().out
    assert "slower  1.500 (" in said
    assert "only in the first: only old" in said
    assert "0 faster, 1 slower, 0 same" in said
    assert main(["bench", "compare", str(tmp_path / "slow"), str(tmp_path / "old")]) == 0
    assert "1 faster, 0 slower, 0 same" in capsys.readouterr().out
    assert (
        main(["bench", "compare", str(tmp_path / "old"), str(tmp_path / "slow"), "--least", "1"])
        == 0
    )
