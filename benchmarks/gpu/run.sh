#!/usr/bin/env bash
# On a machine with an NVIDIA GPU, PyTorch with CUDA, nvcc, CMake, ninja, pybind11, scikit-build-core and pytest: build for its
# architecture, test the CUDA kernels on it, run probe.cu where it is a Hopper GPU, and time the points of points.py. Raw logs and results go to DIRECTORY.
#
#     benchmarks/gpu/run.sh DIRECTORY [OPTION of points.py]...
#
# RNNFAST_GPU_INSTALL says where the package goes (DIRECTORY/install), RNNFAST_GPU_ISAS the CPU kernels that are built (all).
# A run that is cut off goes on where it stopped: points that are in DIRECTORY/points.jsonl are not timed again.
set -euo pipefail
out=$(realpath "$1")
shift
mkdir -p "$out"
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3}

"$PYTHON" -c "import torch; assert torch.cuda.is_available(), 'PyTorch sees no GPU'"
capability=$("$PYTHON" -c "import torch; print('%d%d' % torch.cuda.get_device_capability())")
case $capability in 90) arch=90a-real ;; *) arch=$capability-real ;; esac
{
  date -u +%FT%TZ
  echo "commit ${RNNFAST_COMMIT:-$(git rev-parse HEAD 2>/dev/null || echo unknown)}"
  nvidia-smi || true
  nvcc --version
} >"$out/machine.log" 2>&1

# Into a folder and not an environment: one made from another environment would not see the PyTorch of that one.
site=$(realpath -m "${RNNFAST_GPU_INSTALL:-$out/install}")
time "$PYTHON" -m pip install --no-deps --no-build-isolation --upgrade --target "$site" \
  --config-settings=cmake.define.RNNFAST_CUDA=ON "--config-settings=cmake.define.CMAKE_CUDA_ARCHITECTURES=$arch" \
  ${RNNFAST_GPU_ISAS:+"--config-settings=cmake.define.RNNFAST_ISAS=$RNNFAST_GPU_ISAS"} . >"$out/build.log" 2>&1
export PYTHONPATH=$site
"$PYTHON" -P -m rnnfast info | tee "$out/info.log"

tests=0
processes=()
if "$PYTHON" -c "import xdist" 2>/dev/null; then processes=(-n "$(nproc)"); fi
time PYTHONSAFEPATH=1 RNNFAST_REQUIRE=cuda,torch "$PYTHON" -m pytest "${processes[@]}" -q -p no:cacheprovider tests/test_cuda_*.py \
  tests/test_torch_cuda.py >"$out/tests.log" 2>&1 || tests=$?
tail -5 "$out/tests.log"

# What a step of a persistent kernel would pay to synchronise; with instructions that begin with compute capability 9.0.
if [ "$capability" = 90 ]; then
  nvcc -O3 -std=c++17 -gencode=arch=compute_90a,code=sm_90a -o "$site/probe" benchmarks/gpu/probe.cu
  timeout 60 "$site/probe" >"$out/probe.jsonl" 2>"$out/probe.log" || echo "the probe ended with $?: $out/probe.log"
fi

"$PYTHON" benchmarks/gpu/points.py --out "$out/points.jsonl" "$@" 2>&1 | tee -a "$out/points.log"
exit "$tests"
