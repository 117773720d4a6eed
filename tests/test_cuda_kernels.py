"""Single kernels: numbers in 16 bits, and random masks."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from rnnfast import _random

RNG = np.random.default_rng(0)


def convert(module: ModuleType, source: str, target: str, array: np.ndarray) -> np.ndarray:
    return module._convert(source, target, module.DeviceArray(array)).numpy()


def bf16_values(bits: np.ndarray) -> np.ndarray:
    """The upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def nearest_bf16(x: np.ndarray) -> np.ndarray:
    """Bits of the nearest, ties to even, found by comparing distances in float64."""
    below = (x.view(np.uint32) >> 16).astype(np.uint16)  # towards zero
    above = below + np.uint16(1)
    low, high = (bf16_values(bits).astype(np.float64) for bits in (below, above))
    # Beyond the largest, the next number would be 2^128.
    high = np.where(np.isinf(high), np.copysign(2.0**128, x.astype(np.float64)), high)
    to_low, to_high = (np.abs(x.astype(np.float64) - end) for end in (low, high))
    up = (to_high < to_low) | ((to_high == to_low) & (below % 2 == 1))
    return np.where(up, above, below)


def near_every(values: np.ndarray) -> np.ndarray:
    """Around the middle between each finite value and the next: where rounding turns."""
    values = np.sort(values[np.isfinite(values)]).astype(np.float64)
    middle = ((values[:-1] + values[1:]) / 2).astype(np.float32)
    return np.concatenate(
        [
            middle,
            np.nextafter(middle, np.float32(np.inf)),
            np.nextafter(middle, -np.float32(np.inf)),
        ]
    )


def random_floats(n: int = 500_000) -> np.ndarray:
    """Of any bits, without NaN."""
    x = RNG.integers(0, 2**32, n, dtype=np.uint32).view(np.float32)
    return x[~np.isnan(x)]


ALL = np.arange(2**16, dtype=np.uint16)
# The ends of f16: the largest, half a step above it, half of the smallest. Then float32's.
EDGES = np.array(
    [
        *(
            0,
            -0.0,
            np.inf,
            -np.inf,
            65504,
            65519.996,
            65520,
            2.0**-24,
            2.0**-25,
            1.0000001 * 2.0**-25,
        ),
        *(np.finfo(np.float32).max, np.finfo(np.float32).tiny, 2.0**-149, 3.3961775e38),
    ],
    np.float32,
)


def test_every_f16_is_read(cuda_module: ModuleType) -> None:
    with np.errstate(invalid="ignore"):
        expected = ALL.view(np.float16).astype(np.float32)
    read = convert(cuda_module, "f16", "f32", ALL)
    np.testing.assert_array_equal(read, expected)
    np.testing.assert_array_equal(np.signbit(read), np.signbit(expected))


def test_every_bf16_is_read(cuda_module: ModuleType) -> None:
    read = convert(cuda_module, "bf16", "f32", ALL)
    np.testing.assert_array_equal(read.view(np.uint32), bf16_values(ALL).view(np.uint32))


def test_f16_is_rounded_as_numpy_does(cuda_module: ModuleType) -> None:
    x = np.concatenate([EDGES, random_floats(), near_every(ALL.view(np.float16))])
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16).view(np.uint16)
    np.testing.assert_array_equal(convert(cuda_module, "f32", "f16", x), expected)


def test_bf16_is_rounded_to_nearest(cuda_module: ModuleType) -> None:
    finite = np.concatenate([EDGES, random_floats(), near_every(bf16_values(ALL))])
    finite = finite[np.isfinite(finite)]
    np.testing.assert_array_equal(convert(cuda_module, "f32", "bf16", finite), nearest_bf16(finite))
    ends = np.array([np.inf, -np.inf], np.float32)
    assert convert(cuda_module, "f32", "bf16", ends).tolist() == [0x7F80, 0xFF80]


@pytest.mark.parametrize(("kind", "infinity"), [("f16", 0x7C00), ("bf16", 0x7F80)])
def test_nan_stays_nan_and_quiet(cuda_module: ModuleType, kind: str, infinity: int) -> None:
    # The payload in the lowest bit alone, which a plain cut would lose; signalling; all ones.
    nan = np.array([0x7F800001, 0xFF800001, 0x7FBFFFFF, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32)
    bits = convert(cuda_module, "f32", kind, nan.view(np.float32)) & 0x7FFF
    assert (bits > infinity).all()
    quiet = (0x7FFF ^ infinity) + 1 >> 1
    assert (bits & quiet).all()


def test_what_is_read_is_written_back(cuda_module: ModuleType) -> None:
    for kind, exponent in (("f16", 0x7C00), ("bf16", 0x7F80)):
        numbers = ALL[exponent >= (ALL & 0x7FFF)]
        read = convert(cuda_module, kind, "f32", numbers)
        np.testing.assert_array_equal(convert(cuda_module, "f32", kind, read), numbers)


NUMPY = {"f32": np.float32, "f64": np.float64, "f16": np.float16}
KEY: dict[str, Any] = {"purpose": 1, "seed": 2**40 + 3, "layer": 7, "direction": 1}


def masked_rows(
    module: ModuleType,
    storage: str,
    x: np.ndarray,
    p: float,
    add: np.ndarray | None = None,
    batch_first: bool = False,
    first_step: int = 0,
    step: int = 1,
    row_id: np.ndarray | None = None,
) -> np.ndarray:
    there = [None if a is None else module.DeviceArray(a) for a in (x, add, row_id)]
    return module.masked_rows(
        *(storage, there[0], there[1], batch_first, p),
        *(KEY["purpose"], KEY["seed"], KEY["layer"], KEY["direction"], first_step, step, there[2]),
    ).numpy()


def factors(p: float, steps: np.ndarray, rows: np.ndarray, n: int, dtype: Any) -> np.ndarray:
    drawn = _random.words(
        KEY["seed"], KEY["purpose"], KEY["layer"], KEY["direction"], steps[:, None], rows, n
    )
    return _random._factors(drawn, p, np.dtype(dtype))


@pytest.mark.parametrize("storage", NUMPY)
@pytest.mark.parametrize("n", [1, 3, 4, 7, 61, 64, 513])
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_masks_are_those_of_numpy(cuda_module: ModuleType, storage: str, n: int, p: float) -> None:
    T, B = 5, 3
    dtype = NUMPY[storage]
    computed = np.float64 if storage == "f64" else np.float32
    x, add = (RNG.standard_normal((T, B, n)).astype(dtype) for _ in range(2))
    row_id = np.array([7, 2**31 + 5, 0], np.uint32)
    factor = factors(p, _random.number(np.arange(T), 2**32 - 2), row_id, n, computed)
    masked = masked_rows(cuda_module, storage, x, p, first_step=2**32 - 2, row_id=row_id)
    np.testing.assert_array_equal(masked, (x.astype(computed) * factor).astype(dtype))
    summed = masked_rows(cuda_module, storage, x, p, add, first_step=2**32 - 2, row_id=row_id)
    np.testing.assert_array_equal(
        summed, (x.astype(computed) * factor + add.astype(computed)).astype(dtype)
    )


def test_a_mask_in_bf16(cuda_module: ModuleType) -> None:
    x = RNG.standard_normal((5, 3, 61)).astype(np.float32)
    bits = convert(cuda_module, "f32", "bf16", x)
    masked = masked_rows(cuda_module, "bf16", bits, 0.3)
    factor = factors(0.3, np.arange(5), np.arange(3), 61, np.float32)
    expected = bf16_values(bits) * factor
    np.testing.assert_array_equal(masked, convert(cuda_module, "f32", "bf16", expected))


def test_a_mask_goes_with_its_step_and_row(cuda_module: ModuleType) -> None:
    """Batch first, steps that run backwards, more rows than a block has, T or B of nothing."""
    T, B, n = 9, 13, 10
    x = RNG.standard_normal((T, B, n)).astype(np.float32)
    plain = masked_rows(cuda_module, "f32", x, 0.5)
    np.testing.assert_array_equal(
        plain, x * factors(0.5, np.arange(T), np.arange(B), n, np.float32)
    )
    turned = np.ascontiguousarray(x.swapaxes(0, 1))
    first = masked_rows(cuda_module, "f32", turned, 0.5, batch_first=True)
    np.testing.assert_array_equal(first, plain.swapaxes(0, 1))
    backwards = masked_rows(
        cuda_module, "f32", np.ascontiguousarray(x[::-1]), 0.5, first_step=T - 1, step=2**32 - 1
    )
    np.testing.assert_array_equal(backwards, plain[::-1])
    for shape in ((0, 3, 4), (2, 0, 4), (2, 3, 0)):
        assert masked_rows(cuda_module, "f32", np.zeros(shape, np.float32), 0.5).shape == shape


def test_more_rows_than_blocks(cuda_module: ModuleType) -> None:
    x = np.ones((1, 4096 * 8 + 5, 1), np.float32)
    rows = x.shape[1]
    masked = masked_rows(cuda_module, "f32", x, 0.5)[0, :, 0]
    expected = factors(0.5, np.arange(1), np.arange(rows), 1, np.float32)[0, :, 0]
    np.testing.assert_array_equal(masked, expected)


def test_more_numbers_than_threads(cuda_module: ModuleType) -> None:
    x = np.arange(4096 * 256 + 5, dtype=np.float32) % 2048
    np.testing.assert_array_equal(
        convert(cuda_module, "f32", "f16", x), x.astype(np.float16).view(np.uint16)
    )


def test_bad_arguments_are_refused(cuda_module: ModuleType) -> None:
    x = np.zeros((2, 3, 4), np.float32)
    for storage in ("f64", "bf16", "f8", ""):
        with pytest.raises(ValueError, match="storage type"):
            masked_rows(cuda_module, storage, x, 0.5)
    with pytest.raises(ValueError, match="add is not as in"):
        masked_rows(cuda_module, "f32", x, 0.5, x[:1])
    with pytest.raises(ValueError, match="row_id is not"):
        masked_rows(cuda_module, "f32", x, 0.5, row_id=np.zeros(2, np.uint32))
    with pytest.raises(ValueError, match="no such pair"):
        convert(cuda_module, "f32", "f64", x)
