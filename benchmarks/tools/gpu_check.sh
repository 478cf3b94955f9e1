#!/usr/bin/env bash
# Builds the package with its CUDA kernels, tests and times them, and trains by every method, on a machine with a CUDA
# device: within ten minutes.
#
#   benchmarks/tools/gpu_check.sh [FOLDER]
#
# Needs no network: Python (PYTHON in the environment names another than python3) with torch, NumPy, SciPy, pybind11,
# pytest, hypothesis and pytest-benchmark, and CuPy, without which its tests are skipped; nvcc, a C++ compiler, CMake and
# ninja. Where scikit-learn or safetensors are missing, training leaves out digits or checkpoints and says so.
# Full output goes to FOLDER (build/gpu_check unless given). What is printed last, in less than 12,000 characters, is what
# failed, the figures, and how each stage ended. Fails if any stage does.
set -uo pipefail
cd "$(dirname "$0")/../.."
out=${1:-build/gpu_check}
python=${PYTHON:-python3}
mkdir -p "$out"
rm -f "$out"/*.log "$out"/*.journal
export CUDA_MODULE_LOADING=LAZY PYTHONUNBUFFERED=1
total=580
failed=0
rows=()

# stage NAME SECONDS COMMAND...: runs a command within a limit of its own and of what is left, at which it is interrupted
# (so that pytest still reports what it has); whatever its outcome, the next stage follows.
stage() {
  local name=$1 limit=$2 log="$out/$1.log" started=$SECONDS left=$((total - SECONDS)) outcome=passed
  shift 2
  [ "$limit" -le "$left" ] || limit=$left
  if [ "$limit" -lt 15 ]; then
    rows+=("$(printf '%-12s %5s    not run: no time is left' "$name" -)")
    return
  fi
  timeout --signal=INT --kill-after=5 "$limit" "$@" > "$log" 2>&1
  local status=$?
  if [ $status -eq 124 ] || [ $status -eq 137 ]; then
    outcome="stopped at its limit of $limit s"
  elif [ $status -ne 0 ]; then
    outcome="failed ($status)"
  fi
  [ $status -eq 0 ] || failed=1
  rows+=("$(printf '%-12s %5d s  %s' "$name" $((SECONDS - started)) "$outcome")")
  echo "${rows[-1]}"
}

architecture=$("$python" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())')
isa=baseline
grep -q avx2 /proc/cpuinfo && isa=avx2
grep -q avx512_vnni /proc/cpuinfo && isa=avx512

build() {
  cmake -S . -B "$out/build" -G Ninja -DSKBUILD_PROJECT_VERSION=0 -DSSDML_CUDA=ON \
    -DCMAKE_CUDA_ARCHITECTURES="$architecture-real" -DPython_EXECUTABLE="$(command -v "$python")" \
    -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" &&
    cmake --build "$out/build" --target cuda_kernels baseline $([ $isa = baseline ] || echo $isa) &&
    cp "$out"/build/*.so ssdml_fast/_core/ &&
    "$python" -c "import torch; from ssdml_fast import _core; _core.cuda(); print(torch.zeros(1).cuda())"
}

# A test that hangs ends the process (hang_watch.py): the rest is run by another.
tests() {
  local status=0 worst=0
  for _ in 1 2 3 4; do
    "$python" -m pytest tests/gpu -m gpu -q --durations=5 -p no:cacheprovider \
      -p hang_watch --seconds-per-test 45 --journal "$out/tests.journal"
    status=$?
    [ $status -eq 0 ] || [ $status -eq 5 ] || worst=$status  # 5: none are left
    ! tail -1 "$out/tests.journal" | grep -q '^finished' || break
  done
  return $worst
}

bench() {
  "$python" -m pytest benchmarks/bench_gpu.py -q --benchmark-only -p no:cacheprovider --threads "$(nproc)" "$@"
}

sanitizer() {
  compute-sanitizer --error-exitcode 9 --target-processes all "$python" -m pytest tests/gpu/test_streams.py -m gpu -q \
    -p no:cacheprovider -k "test_runs_on_the_current_stream and not propagate_affinity"
}

train() {
  "$python" benchmarks/tools/train_on_device.py --device cuda
}

export -f build tests bench sanitizer train
export out python isa architecture PYTHONPATH="$PWD:$PWD/benchmarks/tools"

stage build 180 bash -c build
if [ $failed -eq 0 ]; then
  stage tests 150 bash -c tests
  stage train 130 bash -c train
  stage small 120 bash -c 'bench -k "loss or cayley or riemannian"'
  stage graphs 45 bash -c 'bench -k knn'
  stage partitions 40 bash -c 'bench -k "affinity or labels or partition"'
  stage large 60 bash -c 'bench --shapes full -k "partition and 100000"'
  ! command -v compute-sanitizer > /dev/null || stage sanitizer 90 bash -c sanitizer
fi

{
  for name in build tests train small graphs partitions large sanitizer; do
    log="$out/$name.log"
    [ -f "$log" ] || continue
    case $name in
      build) grep -E "error|warning: |rror:" "$log" | head -10 ;;
      tests)
        sed -n 's/^failed /FAILED /p' "$out/tests.journal" | sort -u | head -30
        grep -E "^E  " "$log" | sort | uniq -c | sort -rn | head -10
        comm -23 <(sed -n 's/^begun //p' "$out/tests.journal" | sort) <(sed -n 's/^ended //p' "$out/tests.journal" | sort) |
          sed 's/^/HUNG /'
        tail -1 "$log"
        ;;
      train) grep -vE '^(Traceback| )' "$log" | head -60 ;;
      sanitizer)
        grep -E "^(FAILED|ERROR)|Invalid|at .*cuda::|ERROR SUMMARY" "$log" | sort | uniq -c | sort -rn | head -8
        ;;
      *)
        grep -E "^(FAILED|ERROR)" "$log" | head -5
        if grep -q 'times faster than each peer' "$log"; then
          sed -n '/times faster than each peer/,$p' "$log"
        else
          grep '^measured:' "$log"
        fi
        ;;
    esac
  done
} | cut -c1-180 | tail -c 11000
echo
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
printf '%s\n' "${rows[@]}"
exit $failed
