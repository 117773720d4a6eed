"""The counter-based generator against published values, and what a mask depends on."""

from __future__ import annotations

import numpy as np
import pytest

from rnnfast import _random
from rnnfast._random import philox4x32

# Known answers of philox4x32-10 from Random123's kat_vectors.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers(
    counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]
) -> None:
    assert philox4x32(counter, key).tolist() == list(words)


F64 = np.dtype(np.float64)


def between(
    p: float = 0.5,
    seed: int = 1,
    layer: int = 0,
    T: int = 8,
    rows: object = 4,
    H: int = 64,
    D: int = 1,
    t0: int = 0,
) -> np.ndarray:
    steps = _random.number(np.arange(T)[:, None], t0)
    rows = np.arange(rows) if isinstance(rows, int) else rows
    return _random.between_layers(p, seed, layer, steps, rows, H, D, F64)


@pytest.mark.parametrize("n", [1, 4, 5, 8, 61])
def test_where_the_words_of_a_row_come_from(n: int) -> None:
    seed, purpose, layer, direction, step, row = 2**40 + 3, 3, 2, 1, 2**32 - 1, 2**31 + 7
    drawn = _random.words(seed, purpose, layer, direction, np.array([[0], [step]]), [5, row], n)
    assert drawn.shape == (2, 2, n)
    assert drawn.dtype == np.uint32
    Q = -(-n // 4)
    for unit in range(n):
        place = purpose * 2**24 + layer * 2**8 + direction
        counter = (unit % Q, row, step, place)
        assert drawn[1, 1, unit] == philox4x32(counter, (3, 2**8))[unit // Q]


def test_a_mask_has_its_rate_and_scale() -> None:
    mask = between(0.3, T=64, rows=32, H=256)
    assert set(np.unique(mask)) == {0, 1 / 0.7}
    # Half a million draws: five standard deviations are 0.0032.
    assert (mask == 0).mean() == pytest.approx(0.3, abs=0.0032)
    assert between(0.0).min() == 1
    assert between(1.0).max() == 0


def test_a_factor_is_rounded_once() -> None:
    mask = _random.between_layers(0.3, 1, 0, 0, 0, 64, 1, np.dtype(np.float32))
    assert mask.dtype == np.float32
    assert mask.max() == np.float32(1 / (1 - 0.3))


def test_a_word_at_the_threshold_is_kept() -> None:
    words = _random.words(1, _random.BETWEEN_LAYERS, 0, 0, np.arange(8)[:, None], np.arange(4), 64)
    word = int(words[3, 2, 40])
    assert between(word / 2**32)[3, 2, 40] > 0
    assert between((word + 1) / 2**32)[3, 2, 40] == 0


def test_what_a_mask_depends_on() -> None:
    base = between()
    np.testing.assert_array_equal(between(), base)
    for other in (between(layer=1), between(seed=2), between(seed=1 + 2**32), between(t0=8)):
        # Independent coins agree half of the time: 2048 of them, five deviations are 0.055.
        assert (other == base).mean() == pytest.approx(0.5, abs=0.055)
    both = between(D=2)
    np.testing.assert_array_equal(both[:, :, :64], base)
    assert (both[:, :, 64:] == base).mean() == pytest.approx(0.5, abs=0.055)
    np.testing.assert_array_equal(between(t0=3)[:5], base[3:])
    np.testing.assert_array_equal(between(rows=np.array([3, 2, 1, 0])), base[:, ::-1])
    # 61 units take as many counters as 64.
    np.testing.assert_array_equal(between(H=61), base[:, :, :61])


def test_steps_are_counted_modulo_32_bits() -> None:
    np.testing.assert_array_equal(_random.number(np.arange(3), 2**32 - 1), [2**32 - 1, 0, 1])
    np.testing.assert_array_equal(between(t0=2**32 - 3)[3:], between()[:5])


def test_units_steps_and_rows_differ() -> None:
    mask = between(seed=7, T=16, rows=16, H=16) > 0
    for axis in range(3):
        rolled = np.roll(mask, 1, axis)
        assert (rolled == mask).mean() == pytest.approx(0.5, abs=0.04)


def test_purposes_draw_apart() -> None:
    """Every kind of mask at the same place: each pair agrees as independent coins do."""
    steps, rows = np.arange(32)[:, None], np.arange(1)
    masks = [
        _random.between_layers(0.5, 1, 0, steps, rows, 64, 1, F64) == 0,
        _random.recurrent_dropout(0.5, 1, 0, 0, steps, rows, 64, F64) == 0,
        _random.zoneout(0.5, 1, 0, 0, 0, steps, rows, 64, F64) == 1,
        _random.zoneout(0.5, 1, 0, 0, 1, steps, rows, 64, F64) == 1,
        # Counted by gate row, at step 0.
        _random.weight_drop(0.5, 1, 0, 0, 32, 64, F64)[:, None] == 0,
    ]
    for k, mask in enumerate(masks):
        assert mask.shape == (32, 1, 64)
        assert mask.mean() == pytest.approx(0.5, abs=0.055)
        for other in masks[:k]:
            assert (mask == other).mean() == pytest.approx(0.5, abs=0.055)


def test_each_kind_of_mask_by_its_words() -> None:
    seed, layer, d, H = 9, 3, 1, 7
    steps, rows = np.array([[4], [5]]), np.array([1, 8])
    low = 0.25 * 2**32

    def drawn(purpose: int, steps: object = steps, rows: object = rows) -> np.ndarray:
        return _random.words(seed, purpose, layer, d, steps, rows, H) < low

    np.testing.assert_array_equal(
        _random.between_layers(0.25, seed, layer, steps, rows, H, 2, F64)[..., H:],
        np.where(drawn(1), 0, 1 / 0.75),
    )
    np.testing.assert_array_equal(
        _random.recurrent_dropout(0.25, seed, layer, d, steps, rows, H, F64),
        np.where(drawn(2), 0, 1 / 0.75),
    )
    for state, purpose in ((0, 3), (1, 4)):
        np.testing.assert_array_equal(
            _random.zoneout(0.25, seed, layer, d, state, steps, rows, H, F64), drawn(purpose)
        )
    np.testing.assert_array_equal(
        _random.weight_drop(0.25, seed, layer, d, 3, H, F64),
        np.where(drawn(5, 0, np.arange(3)), 0, 1 / 0.75),
    )


def test_limits_of_the_rates() -> None:
    steps, rows = np.arange(4)[:, None], np.arange(3)
    of = (1, 0, 0)
    assert (_random.recurrent_dropout(1.0, *of, steps, rows, 9, F64) == 0).all()
    assert (_random.recurrent_dropout(0.0, *of, steps, rows, 9, F64) == 1).all()
    assert (_random.zoneout(1.0, *of, 0, steps, rows, 9, F64) == 1).all()
    assert (_random.zoneout(0.0, *of, 0, steps, rows, 9, F64) == 0).all()
    assert (_random.weight_drop(1.0, *of, 9, 3, F64) == 0).all()
