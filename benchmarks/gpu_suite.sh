#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything that can be learnt from one machine with torch and numpy (and nvcc and a GPU, where there are):
#   benchmarks/gpu_suite.sh --out DIR [--minutes N] [--resume DIR]
# Builds the ops for the GPU at hand, selftest, CUDA tests, speed table. Each step leaves its result as a file in DIR, also when
# another step fails; steps whose result is already in DIR (--resume DIR) are not run again. On a machine without a GPU the CPU
# parts run and summary.txt says so. Exit code 1 when a step failed.
set -u

out="" minutes=12
while [ $# -gt 0 ]; do
  case "$1" in
    --out | --resume) out="${2:?$1 needs a folder}"; shift 2 ;;
    --minutes) minutes="${2:?--minutes needs a number}"; shift 2 ;;
    *) sed -n '3,7s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
done
[ -n "$out" ] || { sed -n '3,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }

root="$(cd "$(dirname "$0")/.." && pwd)"
mkdir -p "$out" && out="$(cd "$out" && pwd)" || exit 2
python="${PYTHON:-}"
[ -n "$python" ] || { [ -x "$root/.venv/bin/python" ] && python="$root/.venv/bin/python" || python=python3; }
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
end=$(($(date +%s) + minutes * 60))
failed=0
: >"$out/summary.txt"

say() { echo "$*" | tee -a "$out/summary.txt"; }

# step NAME COMMAND...: the command writes $out/NAME.json or prints; its output is NAME.log, a success leaves NAME.ok.
step() {
  local name="$1" left=$((end - $(date +%s)))
  shift
  [ -e "$out/$name.ok" ] && { say "$name: done before"; return; }
  [ "$left" -gt 5 ] || { say "$name: no time left"; failed=1; return; }
  local begun=$SECONDS
  if timeout --signal=INT --kill-after=10 "$left" "$@" >"$out/$name.log" 2>&1; then
    touch "$out/$name.ok"
    say "$name: ok, $((SECONDS - begun)) s"
  else
    say "$name: FAILED with $?, $((SECONDS - begun)) s, see $name.log"
    failed=1
  fi
}

gpu=$("$python" -c 'import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else "")' 2>/dev/null)
say "machine: $(uname -sm), $(nproc 2>/dev/null || echo "?") cores, GPU: ${gpu:-none, so only the CPU parts are run}"

step build "$python" -c 'import json, dataclasses, logging; logging.basicConfig(level="INFO"); import medrecon.ops as o
print(json.dumps(dataclasses.asdict(o.backend()), indent=1))'
step selftest_cpu "$python" -m medrecon.ops.selftest --json "$out/selftest_cpu.json"
step speed_cpu "$python" "$root/benchmarks/ops_speed.py" --device cpu --json "$out/speed_cpu.json"
if [ -n "$gpu" ]; then
  step selftest_cuda "$python" -m medrecon.ops.selftest --device cuda --json "$out/selftest_cuda.json"
  if "$python" -c 'import pytest' 2>/dev/null; then
    step tests_cuda "$python" -m pytest -q "$root/tests/ops" -k "cuda or kernels"
  else
    say "tests_cuda: left out, pytest is not installed"
  fi
  step speed_cuda "$python" "$root/benchmarks/ops_speed.py" --device cuda --json "$out/speed_cuda.json"
fi
# Training steps are added here, each with its own result file.

say "results in $out"
exit "$failed"
