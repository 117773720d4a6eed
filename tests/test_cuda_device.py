"""Devices, why there is none, arrays on a device, and what a failing device says."""

from __future__ import annotations

import gc
from types import ModuleType

import numpy as np
import pytest

import rnnfast
from rnnfast import DeviceError, _backend
from rnnfast.cli import main


@pytest.mark.parametrize(
    ("built", "runs", "fails"),
    [
        # Machine code: this and later minor versions of the same major one.
        ("80-real", [(8, 0), (8, 6), (8, 9)], [(7, 5), (9, 0)]),
        ("86-real", [(8, 6), (8, 9)], [(8, 0)]),
        # What is for one alone.
        ("90a-real", [(9, 0)], [(8, 9), (10, 0)]),
        ("90a-virtual", [(9, 0)], [(8, 9), (10, 0)]),
        ("100a-real", [(10, 0)], [(10, 3)]),
        ("100f-real", [(10, 0), (10, 3)], [(9, 0), (12, 0)]),
        # PTX: everything later.
        ("90-virtual", [(9, 0), (10, 0), (12, 1)], [(8, 9)]),
        ("75", [(7, 5), (8, 0), (12, 0)], [(7, 0)]),
        ("80-real,90a-real,100-real,90-virtual", [(8, 6), (9, 0), (12, 0)], [(7, 5)]),
        ("", [], [(9, 0)]),
    ],
)
def test_which_devices_a_build_has_code_for(
    cuda_module: ModuleType, built: str, runs: list, fails: list
) -> None:
    names = built.split(",")
    assert all(cuda_module._have_code(names, *capability) for capability in runs)
    assert not any(cuda_module._have_code(names, *capability) for capability in fails)


def test_a_device_is_described(cuda_module: ModuleType) -> None:
    assert cuda_module.why_none() is None
    device = cuda_module.devices()[0]
    assert device["number"] == 0
    assert device["name"]
    assert device["capability"] >= (7, 5)
    assert device["multiprocessors"] > 0
    assert device["memory"] > 2**30
    assert 48 * 2**10 <= device["shared_memory"] <= 2**20
    assert device["l2"] > 2**20
    assert cuda_module.architectures()
    assert cuda_module.driver_version() >= cuda_module.runtime_version() // 1000 * 1000 > 0


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"SIMT_DEVICE": "no-driver"}, "there is no NVIDIA driver"),
        (
            {"SIMT_DEVICE": "old-driver"},
            "the NVIDIA driver serves CUDA 11.8, which is older than the CUDA 13.0 of this build; "
            "a newer driver is needed",
        ),
        ({"SIMT_DEVICE": "none"}, "an NVIDIA driver is there, but no device"),
        (
            {"SIMT_DEVICE": "none", "CUDA_VISIBLE_DEVICES": "7"},
            "an NVIDIA driver is there, but no device (CUDA_VISIBLE_DEVICES=7)",
        ),
        (
            {"SIMT_DEVICE": "old"},
            "no device has code in this build: found simulated device 6.1 of compute capability "
            "6.1; built for 80-virtual",
        ),
        (
            {"SIMT_FAIL": "cudaGetDeviceCount=719"},
            "CUDA finds no device: unspecified launch failure (cudaErrorLaunchFailure)",
        ),
    ],
)
def test_why_there_is_no_device(
    twin: ModuleType,
    environment: dict[str, str],
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert twin.why_none() == why
    assert _backend.cuda_module() == (twin, why)
    assert rnnfast.backends()["cuda"] == why
    with pytest.raises(DeviceError) as caught:
        rnnfast.LSTM(2, 3, device="cuda")
    assert str(caught.value) == (
        f'rnnfast.LSTM: device="cuda" was asked for, but {why}. Use device="cpu" or "auto".'
    )
    # The error is over: what comes next, PyTorch's calls perhaps, does not meet it.
    assert twin._last_error() == 0
    assert main(["info"]) == 0
    assert f"device cuda   absent: {why}\n" in capsys.readouterr().out
    for name in environment:
        monkeypatch.delenv(name)
    assert twin.why_none() is None


def test_info_lists_devices(
    twin: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert main(["info"]) == 0
    said = capsys.readouterr().out
    assert "CUDA          runtime 13.0, driver for 13.0; code for 80-virtual\n" in said
    assert (
        "GPU 0         simulated device 9.0, compute capability 9.0, 4 multiprocessors, 8.0 GiB\n"
    ) in said
    monkeypatch.setenv("SIMT_DEVICE", "old")
    assert main(["info"]) == 0
    assert "multiprocessors, 8.0 GiB; no code for it\n" in capsys.readouterr().out
    monkeypatch.setenv("SIMT_DEVICE", "no-driver")
    assert main(["info"]) == 0
    assert "CUDA          runtime 13.0, no driver; code for" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i4", "u2", "u8", "?"])
@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 7), (0, 4)])
def test_an_array_goes_there_and_back(
    cuda_module: ModuleType, dtype: str, shape: tuple[int, ...]
) -> None:
    array = np.asarray(np.random.default_rng(0).standard_normal(shape) * 9).astype(dtype)
    there = cuda_module.DeviceArray(array)
    assert there.shape == shape
    assert there.dtype == array.dtype
    assert there.device == 0
    back = there.numpy()
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    assert (there.pointer != 0) == (array.size > 0)


def test_an_array_that_does_not_go_there(cuda_module: ModuleType) -> None:
    square = np.zeros((3, 3), np.float32)
    with pytest.raises(ValueError, match="not C-contiguous; use numpy"):
        cuda_module.DeviceArray(square.T[:2])
    for dtype in (object, "U3", ">f4", complex):
        with pytest.raises(TypeError, match=r"dtype is .*, expected bool, integer or floating"):
            cuda_module.DeviceArray(square.astype(dtype))
    with pytest.raises(DeviceError, match="cudaSetDevice failed: invalid device ordinal"):
        cuda_module.DeviceArray(square, device=99)


def test_a_second_device(twin: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMT_DEVICES", "2")
    assert [device["number"] for device in twin.devices()] == [0, 1]
    array = np.arange(5.0)
    there = twin.DeviceArray(array, device=1)
    assert there.device == 1
    narrow = twin._convert("f32", "f16", twin.DeviceArray(array.astype("f4"), device=1))
    assert narrow.device == 1
    np.testing.assert_array_equal(narrow.numpy().view("f2"), array.astype("f2"))
    np.testing.assert_array_equal(there.numpy(), array)


def test_memory_comes_back(twin: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMT_MEMORY", "5000")
    array = np.zeros(1000, np.float32)
    for _ in range(5):
        there = twin.DeviceArray(array)
        del there
        gc.collect()
    first = twin.DeviceArray(array)
    text = (
        "cudaMallocFromPoolAsync of 4000 bytes on device 0 failed: out of memory "
        r"\(cudaErrorMemoryAllocation\)"
    )
    with pytest.raises(MemoryError, match=text):
        twin.DeviceArray(array)
    np.testing.assert_array_equal(first.numpy(), array)
    twin.release_memory(0)


@pytest.mark.parametrize(
    "call", ["cudaMemcpyAsync", "cudaStreamSynchronize", "cudaMallocFromPoolAsync", "cudaGetDevice"]
)
def test_a_call_that_fails_is_named(
    twin: ModuleType, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMT_FAIL", f"{call}=700")
    text = f"{call}.* failed: an illegal memory access was encountered .cudaErrorIllegalAddress"
    with pytest.raises(DeviceError, match=text):
        twin.DeviceArray(np.zeros(3))
    assert twin._last_error() == 0
    monkeypatch.delenv("SIMT_FAIL")
    twin.DeviceArray(np.zeros(3))


def test_a_launch_that_fails_names_the_kernel(
    twin: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = twin.DeviceArray(np.zeros(3, np.float32))
    monkeypatch.setenv("SIMT_FAIL", "cudaLaunchKernelEx=209")
    text = (
        "convert.f32.bf16: launch failed: no kernel image is available for execution on the device "
        r"\(cudaErrorNoKernelImageForDevice\)"
    )
    with pytest.raises(DeviceError, match=text):
        twin._convert("f32", "bf16", x)
