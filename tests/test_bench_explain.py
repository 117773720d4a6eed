"""Why a row is below what is wanted: sentences of made-up rows, worked by hand."""

import pytest

import rnnfast
from rnnfast.bench import report
from rnnfast.bench.explain import ARITHMETIC, LATENCY, STEP, explain, group
from rnnfast.bench.results import Results


def row(time=2000.0, times="rnnfast", **changed):
    """Half a millisecond of arithmetic and more on one thread; 100 GFLOP/s, of which 62.5 came."""
    made = {
        **{"id": "a", "T": 50, "B": 32, "H": 128, "threads": 1, "option": ""},
        "limit_parts_us": {"arithmetic": 1000.0, "memory": 100.0, "activations": 80.0},
        **{"limit_us": 1100.0, "peak_gflops": 100.0, "peak_read_gbs": 56.0},
        **{"tile_gflops": 62.5, "activation_ns": 0.3, "read_gbs": 40.0, "others_cores": 0.01},
        **changed,
    }
    made["times"] = {times: {"median_us": time, "of_limit": made["limit_us"] / time}}
    return made


def test_one_thread():
    """The product would take 1600 at the tile's rate; an activation took twice the limit's."""
    assert explain(row()) == (
        "55% of the limit, wanted 85% (32 rows and 128 units or more); of its time "
        "30% the tile, 62.5 GFLOP/s a thread where the peak is 100; "
        "4% activations, 0.3 ns each and not 0.15; "
        "0% reading weights, 40 GB/s where the peak is 56; "
        "11% the rest, not measured apart"
    )


def test_two_threads():
    """800 for the product at one thread's rate, 1000 at 1.6 cores; 1400 to read the weights."""
    parts = {"arithmetic": 500.0, "memory": 100.0, "activations": 40.0}
    more = {"threads": 2, "cores_had": 1.6, "peak_gflops": 200.0, "tile_gflops": 100.0}
    said = explain(
        row(**more, H=64, limit_parts_us=parts, limit_us=600.0, read_gbs=4.0, others_cores=0.3)
    )
    assert said == (
        "30% of the limit, wanted 50% (fewer of either); of its time "
        "15% the tile, 62.5 GFLOP/s a thread where the peak is 100; "
        "2% activations, 0.3 ns each and not 0.15; "
        "11% cores, for 2 threads had 1.6 of them; "
        "20% reading weights, 4 GB/s where the peak is 56; "
        "22% the rest, not measured apart; other processes used 0.3 cores"
    )


def test_what_the_machine_gave_more_is_negative():
    assert "; -20% reading" not in explain(row())
    assert "of its time -10% the tile" in explain(row(tile_gflops=125.0))


def test_groups_and_who_is_explained():
    assert [group({"T": T, "B": B, "H": H}) for T, B, H in ((2, 32, 128), (2, 31, 128))] == [
        ARITHMETIC,
        LATENCY,
    ]
    assert group({"T": 10, "B": 32, "H": 64}) == LATENCY
    assert group({"T": 1, "B": 64, "H": 512}) == STEP
    assert explain(row(time=1100 / 0.86)) is None
    assert explain(row(time=1100 / 0.84)) is not None
    assert explain(row(time=1100 / 0.51, B=8)) is None
    assert explain(row(time=1100 / 0.49, B=8)) is not None
    assert explain(row(T=1)) is None
    assert explain(row(times="torch")) is None
    assert explain(row(times="rnnfast plain")) is None  # the prepared layer was wrong
    assert explain(row(times="rnnfast plain", option="states")) == explain(row())


def test_the_report_lists_them():
    found = Results()
    rows = [row(), row(time=1200.0), row(T=1), row(B=1), row(times="torch")]
    found.rows = {letter: {**r, "id": letter} for letter, r in zip("abcde", rows, strict=True)}
    found.rows["a"]["explanation"] = "because"
    found.rows["f"] = {**row(B=1, time=3000.0), "id": "f"}
    assert report.below(found) == (
        "- `a`: because.\n- `f`: measured before rows were explained.\n\n"
        "2 rows reach less of their limit than is wanted.\n"
    )
    assert report.below(found, ["f"]).startswith("- `f`")
    with pytest.raises(rnnfast.ArgumentError, match="no row fits x"):
        report.below(found, ["x"])
