#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything that can be learnt from one machine with torch and numpy (and nvcc and a GPU, where there are):
#   benchmarks/gpu_suite.sh --out DIR [--minutes N] [--resume DIR] [--data SHARDS] [--training-minutes N]
#                           [--scene FILE] [--only STEP,STEP...] [--set superpoint.KEY=VALUE]...
# Builds the ops for the GPU at hand, selftest, CUDA tests, speed table; a minute of the demo scene through the grid ops, from
# the FILE that benchmarks/make_grid_scene.py makes, left out without one; then trains SuperPoint and SuperGlue from the
# shards (default: data/train in the repository; `medrecon train data --out data/train` makes them) and evaluates both on
# the test subjects. Each step leaves its result as a file in DIR, also when another step fails.
#   --minutes N           of this call, 25. The training is planned to end within it, --training-minutes N plans otherwise,
#                         and then several calls may be needed: a training cut off has its state in DIR.
#   --resume DIR          goes on with what is in DIR: results that are there are not made again, trainings continue from
#                         their checkpoints. With --out too, DIR may be read-only: it is copied first.
#   --set                 settings of the steps superpoint, superglue and evaluate, such as superglue.pairs=16.
# On a machine without a GPU the CPU parts run, the training with half-size networks and few, small pictures: it shows that
# every part works and nothing else. summary.txt says so. Exit code 1 when a step failed or is unfinished.
set -u

usage() { sed -n '3,16s/^# \{0,1\}//p' "$0" >&2; exit 2; }

root="$(cd "$(dirname "$0")/.." && pwd)"
out="" resume="" scene="" minutes=25 data="$root/data/train" training_minutes="" only="" superpoint_set=() superglue_set=() evaluate_set=()
while [ $# -gt 0 ]; do
  [ $# -gt 1 ] || usage
  case "$1" in
    --out) out="$2" ;;
    --resume) resume="$2" ;;
    --minutes) minutes="$2" ;;
    --training-minutes) training_minutes="$2" ;;
    --data) data="$2" ;;
    --scene) scene="$2" ;;
    --only) only=",$2," ;;
    --set)
      case "$2" in
        superpoint.*=*) superpoint_set+=(--set "${2#superpoint.}") ;;
        superglue.*=*) superglue_set+=(--set "${2#superglue.}") ;;
        evaluate.*=*) word="${2#evaluate.}" && evaluate_set+=("--${word%%=*}" "${word#*=}") ;;
        *) usage ;;
      esac ;;
    *) usage ;;
  esac
  shift 2
done
[ -n "$out$resume" ] || usage
steps=",build,selftest_cpu,speed_cpu,selftest_cuda,tests_cuda,speed_cuda,scene,train_superpoint,train_superglue,evaluate,"
for step in ${only//,/ }; do
  [[ "$steps" == *",$step,"* ]] || { echo "--only $step: there are${steps//,/ }" >&2; exit 2; }
done
[[ "$minutes$training_minutes" =~ ^[0-9.]+$ ]] || usage

# --resume alone goes on in its own folder.
out="${out:-$resume}"
mkdir -p "$out" && out="$(cd "$out" && pwd)" || exit 2
if [ -n "$resume" ]; then
  resume="$(cd "$resume" && pwd)" || exit 2
  if [ "$resume" != "$out" ]; then
    cp -R "$resume/." "$out/" && chmod -R u+w "$out" || exit 2
  fi
fi
[ -w "$out" ] || { echo "$out may not be written to: give --out DIR beside --resume" >&2; exit 2; }

python="${PYTHON:-}"
[ -n "$python" ] || { [ -x "$root/.venv/bin/python" ] && python="$root/.venv/bin/python" || python=python3; }
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
tenths() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.3g", a * b }'; }
seconds() { awk -v m="$1" 'BEGIN { printf "%d", m * 60 }'; }
end=$(($(date +%s) + $(seconds "$minutes")))
failed=0
: >"$out/summary.txt"

say() { echo "$*" | tee -a "$out/summary.txt"; }

wanted() { [ -z "$only" ] || [[ "$only" == *",$1,"* ]]; }

# step NAME COMMAND...: the command writes $out/NAME.json or prints; its output is NAME.log, a success leaves NAME.ok.
step() {
  local name="$1" left=$((end - $(date +%s))) code=0
  shift
  wanted "$name" || return 0
  [ -e "$out/$name.ok" ] && { say "$name: done before"; return 0; }
  [ "$left" -gt 5 ] || { say "$name: no time left"; failed=1; return 1; }
  local begun=$SECONDS
  timeout --signal=INT --kill-after=20 "$left" "$@" >>"$out/$name.log" 2>&1 || code=$?
  if [ "$code" = 0 ]; then
    touch "$out/$name.ok"
    say "$name: ok, $((SECONDS - begun)) s"
    return 0
  fi
  failed=1
  case "$code" in
    124 | 130 | 137) say "$name: not finished after $((SECONDS - begun)) s, see $name.log; --resume goes on with it" ;;
    *) say "$name: FAILED with $code, $((SECONDS - begun)) s, see $name.log" ;;
  esac
  return 1
}

gpu=$("$python" -c 'import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else "")' 2>/dev/null)
say "machine: $(uname -sm), $(nproc 2>/dev/null || echo "?") cores, GPU: ${gpu:-none, so only the CPU parts are run}"

step build "$python" -c 'import json, dataclasses, logging; logging.basicConfig(level="INFO"); import medrecon.ops as o
print(json.dumps(dataclasses.asdict(o.backend()), indent=1))'
step selftest_cpu "$python" -m medrecon.ops.selftest --json "$out/selftest_cpu.json"
step speed_cpu "$python" -m medrecon.bench.speed --quick --no-compile --device cpu --json "$out/speed_cpu.json"
if [ -n "$gpu" ]; then
  step selftest_cuda "$python" -m medrecon.ops.selftest --device cuda --json "$out/selftest_cuda.json"
  if "$python" -c 'import pytest' 2>/dev/null; then
    step tests_cuda "$python" -m pytest -q "$root/tests/ops" -k "cuda or kernels"
  else
    say "tests_cuda: left out, pytest is not installed"
  fi
  step speed_cuda "$python" -m medrecon.bench.speed --device cuda --out "$out/speed_cuda" --json "$out/speed_cuda.json"
fi
if [ -f "$scene" ]; then
  # A minute of 20 and more, less of less.
  step scene "$python" "$root/benchmarks/grid_scene.py" "$scene" --device "$([ -n "$gpu" ] && echo cuda || echo cpu)" \
    --minutes "$(awk -v m="$minutes" 'BEGIN { print m < 20 ? m / 20 : 1 }')" --json "$out/scene.json"
elif wanted scene; then
  say "scene: left out, ${scene:+there is no }${scene:---scene FILE is not given}; benchmarks/make_grid_scene.py makes one"
fi

# Without a GPU; what --set says comes after these and therefore wins.
small_superpoint="encoder_widths=32,32,64,128 head_width=128 descriptor_size=128 views=200 validation_views=60 batch=4
  crop=120,160 validation_pairs=16 validation_size=160,208 schedule.validations=3"
small_superglue="width=160 layers=6 encoder_widths=32,64,128 image_px=160,208 keypoints=160 pairs=8 views=200
  validation_views=60 validation_pairs=16 schedule.validations=2"

# The training: SuperPoint has 0.6 of its minutes, SuperGlue, which learns on the features of that one, 0.4. The plan is
# kept in DIR, because a training goes on only with the length that it began with.
train() {
  local name="$1" minutes="$2" weights="$out/$1/$1.safetensors"
  shift 2
  step "train_$name" "$python" -m medrecon.training "$name" --data "$data" --out "$out/$name" --minutes "$minutes" "$@" || return 1
  # The optimiser's state, two thirds of the folder, is of no more use.
  if [ -e "$out/train_$name.ok" ] && [ -e "$weights" ]; then rm -f "$out/$name/state.pt"; fi
}

if wanted train_superpoint || wanted train_superglue || wanted evaluate; then
  if ls "$data"/*.npz >/dev/null 2>&1; then
    if [ -e "$out/training_minutes" ]; then
      training_minutes="$(cat "$out/training_minutes")"
    else
      # What is left pays for the other steps, rendering the pool of views and the evaluation.
      training_minutes="${training_minutes:-$(tenths "$minutes" 0.8)}"
      echo "$training_minutes" >"$out/training_minutes"
    fi
    small=""
    if [ -z "$gpu" ]; then
      for setting in $small_superpoint; do superpoint_set=(--set "$setting" ${superpoint_set[@]+"${superpoint_set[@]}"}); done
      for setting in $small_superglue; do superglue_set=(--set "$setting" ${superglue_set[@]+"${superglue_set[@]}"}); done
      evaluate_set=(--views 60 --pairs 16 --keypoints 256 ${evaluate_set[@]+"${evaluate_set[@]}"})
      small=", half-size networks and 200 views for want of a GPU"
    fi
    say "training: $training_minutes minutes, from $(ls "$data"/*.npz | wc -l) shards$small"
    train superpoint "$(tenths "$training_minutes" 0.6)" ${superpoint_set[@]+"${superpoint_set[@]}"}
    if [ -e "$out/superpoint/superpoint.safetensors" ]; then
      train superglue "$(tenths "$training_minutes" 0.4)" --superpoint "$out/superpoint/superpoint.safetensors" \
        ${superglue_set[@]+"${superglue_set[@]}"}
      glue=()
      if [ -e "$out/superglue/superglue.safetensors" ]; then glue=(--superglue "$out/superglue/superglue.safetensors"); fi
      step evaluate "$python" -m medrecon.training evaluate --data "$data" --split test --json "$out/evaluate.json" \
        --superpoint "$out/superpoint/superpoint.safetensors" ${glue[@]+"${glue[@]}"} ${evaluate_set[@]+"${evaluate_set[@]}"}
    fi
  else
    say "training: left out, there are no shards in $(basename "$(dirname "$data")")/$(basename "$data"); medrecon train data --out DIR makes them, --data DIR names them"
  fi
fi

say "results in $out ($(du -sm "$out" | cut -f1) MB)"
exit "$failed"
