"""The package as it is installed: what it needs, what it brings, what it costs to import."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.resources
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import require
from processes import PYTHON, environment

import rnnfast

ROOT = Path(__file__).resolve().parent.parent


def fresh(code: str) -> str:
    """What a new interpreter prints, away from this folder's sources."""
    command = [*PYTHON, "-c", code]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_needs_numpy_alone() -> None:
    code = (
        "import sys, numpy; before = set(sys.modules); import rnnfast; "
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    loaded = set(fresh(code).split())
    assert loaded - sys.stdlib_module_names - {"numpy"} == {"rnnfast"}


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_the_compiled_module_is_linked_to_no_framework() -> None:
    """PyTorch's tensors come as pointers: no version of its libraries is asked for."""
    require("core")
    code = (
        "import rnnfast._core; "
        "print(*{line.split('/')[-1] for line in open('/proc/self/maps') if '.so' in line})"
    )
    loaded = fresh(code)
    assert "_core" in loaded
    assert not re.search("torch|c10|tensorflow|jax|mkl", loaded)


def test_import_is_quick() -> None:
    """Under 0.2 s beyond NumPy; the best of a few, since the first one reads from disk."""
    code = (
        "import time, numpy; start = time.perf_counter(); import rnnfast; "
        "print(time.perf_counter() - start)"
    )
    assert min(float(fresh(code)) for _ in range(5)) < 0.2


def test_metadata() -> None:
    metadata = importlib.metadata.metadata("rnnfast")
    assert metadata["Version"] == rnnfast.__version__
    requires = importlib.metadata.requires("rnnfast") or []
    needed = [line for line in requires if "extra ==" not in line]
    assert [re.split(r"[^\w-]", line)[0] for line in needed] == ["numpy"]
    assert {"cli", "test"} <= set(metadata.get_all("Provides-Extra") or [])
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="rnnfast")
    assert script.value == "rnnfast.cli:main"


def test_types_travel_with_the_package() -> None:
    files = importlib.resources.files("rnnfast")
    assert (files / "py.typed").is_file()
    assert (files / "_core.pyi").is_file()


def test_public_names_exist() -> None:
    assert sorted(rnnfast.__all__) == sorted(set(rnnfast.__all__))
    for name in rnnfast.__all__:
        assert hasattr(rnnfast, name), name


def test_stub_names_what_the_compiled_module_has() -> None:
    core = pytest.importorskip("rnnfast._core", reason="the compiled module is not built")
    stub = ast.parse((ROOT / "rnnfast" / "_core.pyi").read_text("utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    stated = {node.name for node in stub.body if isinstance(node, kinds)}
    present = {name for name in dir(core) if not name.startswith("_")}
    assert stated == present


# .ci/check_objects.py looks for faults that tests of results cannot see; here it has to find them.

HARMLESS = """
typedef float Vec __attribute__((vector_size(16)));
namespace {
template <int N>
__attribute__((noinline)) void tile(const float* a, const Vec* b, long n, Vec* out) {
  Vec sum = {};
  for (long k = 0; k < n; ++k) sum += a[k] * b[k];
  *out = sum;
}
}
extern "C" void table(const float* a, const Vec* b, long n, Vec* out) { tile<1>(a, b, n, out); }
"""
WEAK = HARMLESS + "inline int shared(int a) { return a + 1; }\nint (*keep)(int) = shared;\n"
SPILLING = HARMLESS.replace(
    "sum += a[k] * b[k];", "{ volatile float spilled = a[k]; sum += spilled * b[k]; }"
)


@pytest.fixture(scope="module")
def check_objects() -> ModuleType:
    for tool in ("g++", "objdump", "nm"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    version = subprocess.run(["g++", "-dumpmachine"], check=True, capture_output=True, text=True)
    if not version.stdout.startswith("x86_64"):
        pytest.skip("the checks read x86-64 code")
    path = ROOT / ".ci" / "check_objects.py"
    if not path.exists():
        pytest.skip("a source archive does not hold .ci")
    spec = importlib.util.spec_from_file_location("check_objects", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_objects"] = module
    spec.loader.exec_module(module)
    return module


def build(tree: Path, **sources: tuple[str, str]) -> Path:
    """A build tree with an object per instruction set, from (source, flags)."""
    for isa, (source, flags) in sources.items():
        folder = tree / f"kernels_{isa}_f32.dir"
        folder.mkdir(parents=True)
        (folder / "kernels.cpp").write_text(source, "utf-8")
        command = ["g++", "-O3", "-c", *flags.split(), "kernels.cpp", "-o", "kernels.o"]
        subprocess.run(command, check=True, cwd=folder)
    return tree


GOOD = {
    "baseline": (HARMLESS, ""),
    "avx2": (HARMLESS, "-mavx2 -mfma"),
    "avx512": (HARMLESS, "-mavx512f -mfma"),
}


@pytest.mark.parametrize(
    ("isa", "source", "flags", "finding"),
    [
        (None, "", "", None),
        ("avx2", WEAK, "-mavx2 -mfma", "weak: .*shared"),
        ("avx512", WEAK, "-mavx512f -mfma", "weak: .*shared"),
        ("baseline", HARMLESS, "-mavx", "too new: .*tile"),
        ("avx2", SPILLING, "-mavx2 -mfma", "spill: .*tile"),
        ("avx2", "int nothing;", "-mavx2 -mfma", "no tile found"),
    ],
    ids=["good", "weak-avx2", "weak-avx512", "avx-in-baseline", "spill", "no-tile"],
)
def test_check_objects_finds(check_objects, tmp_path, isa, source, flags, finding) -> None:
    sources = dict(GOOD)
    if isa:
        sources[isa] = (source, flags)
    findings = check_objects.check(build(tmp_path, **sources))
    if finding is None:
        assert findings == []
    else:
        assert findings
        assert all(re.search(finding, found) for found in findings)


def test_check_objects_needs_every_instruction_set(check_objects, tmp_path) -> None:
    """A renamed target must not pass for a clean one."""
    findings = check_objects.check(build(tmp_path, baseline=GOOD["baseline"], avx2=GOOD["avx2"]))
    assert len(findings) == 1
    assert "no object of avx512" in findings[0]
