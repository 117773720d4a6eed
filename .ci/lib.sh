# What .ci/run and .ci/full share. Sourced, not run; the caller stands in the repository's root.

PYTHON=${PYTHON:-python3.11}
work=$(mktemp -d "${TMPDIR:-/tmp}/rnnfast-ci.XXXXXX")
trap 'kill $(jobs -p) 2>/dev/null || :; rm -rf "$work"' EXIT

# PyTorch's idle OpenMP team spins by default; beside other processes on two cores that costs minutes. NumPy's products
# on two threads are in each other's way as well: two runs of tests/test_kernels.py side by side took 43 seconds, on one 30.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
export OPENBLAS_NUM_THREADS=${OPENBLAS_NUM_THREADS:-1}
export PIP_DISABLE_PIP_VERSION_CHECK=1

step() {
  printf '\n=== %s (%dm%02ds)\n' "$1" $((SECONDS / 60)) $((SECONDS % 60))
}

# beside NAME COMMAND...: run it in the background, for there are steps that keep one core idle. `joined NAME` waits for
# it, shows what it said, and fails if it failed.
declare -A background
beside() {
  local name=$1
  shift
  (set -euo pipefail && "$@") >"$work/$name.log" 2>&1 &
  background[$name]=$!
}
joined() {
  local status=0
  wait "${background[$1]}" || status=$?
  cat "$work/$1.log"
  return $status
}

# debian PACKAGE...: install Debian packages.
debian() {
  local root=()
  if [ "$(id -u)" -ne 0 ]; then root=(sudo); fi
  "${root[@]}" apt-get update -qq
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# need COMMAND PACKAGE...: install Debian packages unless the command is there.
need() {
  local command=$1
  shift
  if command -v "$command" >/dev/null; then return; fi
  debian "$@"
  command -v "$command"
}

# copy_tree DIRECTORY: the files of the working tree that git tracks or would track, and nothing that
# was built: what a clone would hold after committing.
copy_tree() {
  mkdir -p "$1"
  git ls-files --cached --others --exclude-standard --deduplicate -z |
    while IFS= read -r -d '' file; do
      if [ -e "$file" ]; then printf '%s\0' "$file"; fi
    done | tar --null --files-from=- --create | tar --extract --directory "$1"
}

# readme_command N: the Nth block of README.md that is fenced as `sh`.
readme_command() {
  awk -v want="$1" '/^```sh$/ { n++; inside = 1; next } /^```$/ { inside = 0 } inside && n == want' README.md
}

# Warnings of nvcc, of its host compiler and of ptxas (registers spilled to memory) as errors, in every build that
# follows. ptxas takes -Werror with one dash.
strict_cuda() { export CUDAFLAGS="-Werror all-warnings -Xcompiler=-Werror -Xptxas=-Werror"; }

# twin DIRECTORY PYTHON SETTING...: the CUDA module compiled for the CPU (tests/simt), for this Python, in
# DIRECTORY/twin. Little optimised: the compiler is what takes the time.
twin() {
  local directory=$1 python=$2
  shift 2
  if [ ! -e "$work/twin-tools" ]; then venv "$work/twin-tools" cmake ninja pybind11; fi
  local PATH=$work/twin-tools/bin:$PATH
  cmake -S "$tree" -B "$directory" -G Ninja -DRNNFAST_CUDA=OFF -DRNNFAST_CUDA_TWIN=ON \
    -DPython_EXECUTABLE="$python" -Dpybind11_DIR="$(python -m pybind11 --cmakedir)" \
    -DCMAKE_COMPILE_WARNING_AS_ERROR=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo \
    -DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1 "$@"
  cmake --build "$directory" --target rnnfast_cuda_twin
}

# venv DIRECTORY REQUIREMENT...: a fresh virtual environment with these installed.
venv() {
  local directory=$1
  shift
  "$PYTHON" -m venv "$directory"
  if [ $# -gt 0 ]; then "$directory/bin/pip" install --quiet "$@"; fi
}
