#!/usr/bin/env bash
# Builds, tests and measures on one GPU in at most eight minutes: benchmarks/gpu.sh OUT
#
# Run it in a clone, with a Python that has torch. Wheels in .whl/ are installed first, for machines without a network.
# OUT receives a log of every part, the tables of the benchmarks (json and md) and report.md. A part that has ended well
# is not repeated: the same command continues. The exit status is 1 if a part failed.
#
#   DEVICE=cpu SMALL=1 SECONDS_IN_ALL=3600 benchmarks/gpu.sh OUT    rehearses all but build and compute-sanitizer on a CPU
set -uo pipefail
out=$(realpath -m "${1:?usage: benchmarks/gpu.sh OUT}")
cd "$(dirname "$0")/.."
export DEVICE=${DEVICE:-cuda} PYTHONPATH=$PWD:$PWD/ops PYTHONUNBUFFERED=1
python=${PYTHON:-python}
mkdir -p "$out/done"
budget=${SECONDS_IN_ALL:-480}
slow=1
if [ -n "${SMALL:-}" ]; then slow=8; fi # on a CPU everything takes longer
failed=0

# part NAME SECONDS COMMAND...: runs a command with a limit, unless it has ended well before.
part() {
  local name=$1 limit=$(($2 * slow)) begun=$SECONDS status=0
  shift 2
  if [ -e "$out/done/$name" ]; then return; fi
  limit=$((limit < budget - SECONDS ? limit : budget - SECONDS))
  if [ "$limit" -lt 5 ]; then echo "not begun: the $budget s are over" | tee "$out/$name.end"; failed=1; return; fi
  echo "== $name"
  timeout -k 10 "$limit" "$@" >"$out/$name.log" 2>&1 || status=$?
  echo "$((SECONDS - begun)) s, exit status $status" | tee "$out/$name.end"
  if [ "$status" -eq 0 ]; then touch "$out/done/$name"; else failed=1 && tail -n 15 "$out/$name.log"; fi
}

build() {
  if compgen -G ".whl/*.whl" >/dev/null; then $python -m pip install -q --no-index --no-deps .whl/*.whl || return; fi
  TORCH_CUDA_ARCH_LIST=$($python -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())') || return
  export TORCH_CUDA_ARCH_LIST MAX_JOBS=${MAX_JOBS:-8}
  $python -m pip install --no-build-isolation --no-deps -e .
}

report() {
  echo "# One GPU: build, tests, training, benchmarks"
  echo
  echo '```'
  cat "$out/doctor.log" 2>/dev/null
  echo '```'
  for end in "$out"/*.end; do
    name=$(basename "$end" .end)
    printf '\n## %s: %s\n\n' "$name" "$(cat "$end")"
    if [ -e "$out/$name.md" ]; then tail -n +3 "$out/$name.md"; else printf '```\n%s\n```\n' "$(tail -n 25 "$out/$name.log" 2>/dev/null)"; fi
  done
}

export -f build
export python
tests="-q -p no:cacheprovider -o addopts="
train="$python tools/train.py device=$DEVICE schedule.steps=${SMOKE_STEPS:-40} evaluation.num_images=20 log.images=2"
if [ "$DEVICE" = cuda ]; then
  part build 200 bash -c build
  part doctor 60 $python -m maskrcnn.cli doctor
  part kernels 120 env MASKRCNN_TEST_DEVICE=cuda $python -m pytest $tests tests/ops/test_cuda.py
  part bf16 60 $train precision=bf16 run_dir="$out/runs/bf16"
  part graphs 90 $train precision=bf16 compile=true cuda_graphs=true data.train_loader.buckets=128 run_dir="$out/runs/graphs"
  part deterministic 60 $train deterministic=true run_dir="$out/runs/deterministic"
else
  part doctor 60 $python -m maskrcnn.cli doctor
  part kernels 120 $python -m pytest $tests tests/ops/test_cuda_on_cpu.py -k "output or suppression or nothing_of"
  part bf16 60 $train precision=bf16 run_dir="$out/runs/bf16"
  part deterministic 60 $train deterministic=true run_dir="$out/runs/deterministic"
fi
if [ -n "${SMALL:-}" ]; then
  device="repeats=2 images=1 channels=64 boxes=32" step="repeats=1 batch=1 side=128 precisions=fp32 peers=fp32" ops="repeats=1 channels=64"
else
  device="repeats=10" step="repeats=3 variants=eager,compiled,graphs peers=fp32,fp16,bf16" ops="repeats=3"
fi
part device 90 $python tools/benchmark.py suite=device device="$DEVICE" $device out="$out/device.json"
part train 150 $python tools/benchmark.py suite=train $step out="$out/train.json"
part ops 120 $python tools/benchmark.py suite=ops $ops out="$out/ops.json"
if [ "$DEVICE" = cuda ] && command -v compute-sanitizer >/dev/null; then
  part sanitizer 90 compute-sanitizer --error-exitcode 9 $python -m pytest $tests tests/ops/test_cuda.py -k "output or suppression or nothing_of"
fi
report >"$out/report.md"
echo "written: $out/report.md"
exit "$failed"
