"""What a run comes to: a summary of made-up rows, worked by hand."""

from rnnfast.bench.grid import TRAINING, Row
from rnnfast.bench.results import Results
from rnnfast.bench.summary import summary


def entry(row, of_limit, us, cpu, **peers):
    """A row as a file has it; of a peer the ratio and its lower end."""
    times = {"rnnfast": {"of_limit": of_limit, "median_us": us, "cpu_us": cpu}}
    for name, (ratio, low) in peers.items():
        times[name] = {"median_us": us * ratio, "ratio": ratio, "low": low}
    return {"kind": "row", "id": row.id, **row.fields(), "times": times}


def of(*entries):
    head = dict.fromkeys(("cpu", "isa", "cores", "commit", "date"), "x")
    return Results(machines=[head], rows={e["id"]: e for e in entries})


def cells(text, begin):
    """The cells of the line of a table that begins so."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {begin} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


LARGE, SMALL, STEP = (50, 32, 8, 128), (50, 32, 8, 64), (1, 1, 8, 8)
ROWS = [
    entry(Row("lstm", *LARGE), 0.8, 100, 100, torch=(4.0, 3.0), jax=(2.0, 0.9)),
    entry(Row("lstm", *LARGE, threads=2), 0.5, 80, 160, torch=(1.0, 0.9)),
    entry(Row("gru", *LARGE), 0.6, 100, 100, torch=(8.0, 7.0), numpy=(4.0, 1.1)),
    entry(Row("gru", *LARGE, threads=2), 0.5, 60, 140, numpy=(8.0, 4.0)),
    entry(Row("gru", *SMALL), 0.1, 100, 100),
    entry(Row("gru", *SMALL, threads=2), 0.1, 90, 120),
    entry(Row("lstm", *STEP), 0.5, 1, 1, torch=(16.0, 15.0)),
    entry(Row("lstm", *LARGE, dtype="float64"), 0.01, 1, 1, torch=(99.0, 98.0)),
    entry(Row("lstm", *LARGE, option="reset"), 0.01, 1, 1, torch=(99.0, 98.0)),
]


def test_means():
    """By row 2 (JAX), 1, 4 and 8; against the limit 2.5, 2, 20/3 and 16. PyTorch: 4, 1, 8."""
    text = summary(of(*ROWS))
    best, there = (2 * 1 * 4 * 8) ** (1 / 4), (2.5 * 2 * 20 / 3 * 16) ** (1 / 4)
    torch, torch_there = (4 * 1 * 8) ** (1 / 3), (5 * 2 * 40 / 3) ** (1 / 3)
    assert cells(text, "inference | T > 1") == [
        *("inference", "T > 1", "4"),
        *(f"{best:.2f}, wanted 1.6", f"{1.6 / there:.2f}"),
        *(f"{torch:.2f}, wanted 5", f"{5 / torch_there:.2f}"),
        *("3", "2"),  # 1 is not ahead; JAX may be ahead of one that is
    ]
    best = (2 * 1 * 4 * 8 * 16) ** (1 / 5)
    assert cells(text, "inference | all")[2:4] == ["5", f"{best:.2f}, wanted 1.6"]
    assert cells(text, "inference | all")[-2:] == ["4", "3"]
    assert (
        "Inference, not ahead with 95 % in 2 of 5 rows; the fastest peer over ours: LSTM (50, 32, "
        "8, 128) t2 1.00 (PyTorch); LSTM (50, 32, 8, 128) t1 2.00 (JAX)." in text
    )
    assert "forward+backward" not in text


def test_fractions_by_group_and_threads():
    text = summary(of(*ROWS))
    lines = [line for line in text.splitlines() if line.startswith("| inference, ")]
    assert lines == [
        "| inference, 32 rows and 128 units or more | 85% | 70% of 2 rows | 50% of 2 rows |",
        "| inference, fewer of either | 50% | 10% of 1 rows | 10% of 1 rows |",
        "| inference, a single step |  | 50% of 1 rows | - |",
    ]


def test_processor_time():
    """1.6 times it for 1.25; 1.4 times it for 1.67 is a good trade, 1.2 for 1.1 is little."""
    text = summary(of(*ROWS))
    assert (
        "in 1 of 3 pairs of rows; processor time and speed-up: LSTM (50, 32, 8, 128) t2 inference "
        "1.60, 1.25." in text
    )


def test_processor_time_of_the_same_rounds():
    """1.5 times it for 1.4, whatever the rows' own times say."""
    one, two = (
        ROWS[0],
        ROWS[1] | {"beside_one_thread": {"speed_up": {"ratio": 1.4}, "cpu": {"ratio": 1.5}}},
    )
    assert summary(of(one, two)).endswith("LSTM (50, 32, 8, 128) t2 inference 1.50, 1.40.\n")


def test_a_pass_without_peers_and_a_run_without_rows():
    text = summary(of(entry(Row("lstm", *LARGE, passed=TRAINING), 0.8, 100, 100)))
    assert "| forward+backward, 32 rows and 128 units or more | 85% | 80% of 1 rows |" in text
    assert "not ahead with 95 % in 0 of 0 rows; the fastest peer over ours: none." in text
    assert summary(of(*ROWS[-2:])) == "No plain row of float32 has times of rnnfast.\n"
