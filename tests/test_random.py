"""The counter-based generator against published values, and what a mask depends on."""

from __future__ import annotations

import numpy as np
import pytest

from rnnfast._random import Masks, philox4x32

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


def test_a_mask_has_its_rate_and_scale() -> None:
    mask = Masks(0.3, 1).between_layers(0, 64, 32, 256, 1, F64)
    assert set(np.unique(mask)) == {0, 1 / 0.7}
    # Half a million draws: five standard deviations are 0.0032.
    assert (mask == 0).mean() == pytest.approx(0.3, abs=0.0032)
    assert Masks(0.0, 1).between_layers(0, 3, 2, 5, 1, F64).min() == 1
    assert Masks(1.0, 1).between_layers(0, 3, 2, 5, 1, F64).max() == 0


def test_what_a_mask_depends_on() -> None:
    def mask(layer: int = 0, D: int = 1, **options: object) -> np.ndarray:
        masks = Masks(**{"p": 0.5, "seed": 1, **options})  # type: ignore[arg-type]
        return masks.between_layers(layer, 8, 4, 64, D, F64)

    base = mask()
    np.testing.assert_array_equal(mask(), base)
    for other in (mask(layer=1), mask(seed=2), mask(seed=1 + 2**32), mask(t0=8)):
        # Independent coins agree half of the time: 2048 of them, five deviations are 0.055.
        assert (other == base).mean() == pytest.approx(0.5, abs=0.055)
    both = mask(D=2)
    np.testing.assert_array_equal(both[:, :, :64], base)
    assert (both[:, :, 64:] == base).mean() == pytest.approx(0.5, abs=0.055)
    np.testing.assert_array_equal(mask(t0=3)[:5], base[3:])
    np.testing.assert_array_equal(mask(row_ids=np.array([3, 2, 1, 0])), base[:, ::-1])
    few = Masks(0.5, 1).between_layers(0, 8, 4, 61, 1, F64)
    np.testing.assert_array_equal(few, base[:, :, :61])


def test_units_steps_and_rows_differ() -> None:
    mask = Masks(0.5, 7).between_layers(0, 16, 16, 16, 1, F64) > 0
    for axis in range(3):
        rolled = np.roll(mask, 1, axis)
        assert (rolled == mask).mean() == pytest.approx(0.5, abs=0.04)
