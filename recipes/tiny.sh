#!/usr/bin/env bash
# The whole pipeline on a laptop CPU, offline: curate -> sft -> generate -> evaluate -> grpo ->
# generate -> evaluate -> analyze in the tiny world. Ends with a table and out/tiny/report.html.
#
#   bash recipes/tiny.sh               one seed, about 3 minutes on 2 cores
#   bash recipes/tiny.sh --seeds 3     three seeds: traces, fine-tuning, RL and sampling drawn anew;
#                                      about 9 minutes
#   FRESH_BASE=1 bash recipes/tiny.sh --seeds 3
#                                      also a newly trained base model for each further seed; 5
#                                      minutes
#                                      more each. Models of different bases are graded together but
#                                      not
#                                      compared token by token
#
# After an interruption it continues from where it was. Run again, it says what is complete. After a
# change to the sources it starts over.
set -euo pipefail
source "$(dirname "$0")/env.sh"
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 OMP_NUM_THREADS=1 MPLBACKEND=Agg
seeds=1
if [ "${1:-}" = --seeds ] && [ "${2:-0}" -ge 1 ] 2>/dev/null; then
  seeds=$2
elif [ $# -gt 0 ]; then
  echo "tiny.sh: unknown arguments: $* (only --seeds N)" >&2
  exit 2
fi

out=out/tiny
mkdir -p "$out"
sources="./*.py engine kernels grading curation report data recipes/tiny*"
if [ -f "$out/started" ] &&
  [ -n "$(find $sources -newer "$out/started" -type f -not -name '*.pyc' -print -quit)" ]; then
  echo "the sources changed since the last run: starting over"
  rm -rf "$out"
  mkdir -p "$out"
fi
[ -f "$out/started" ] || touch "$out/started"
began=$(date +%s)
# The figures in README.md and RESULTS.md were made on a CPU.
device="--device cpu"

answer() {                                   # answer MODEL RUN [flags]: the held-out problems
  local model=$1 run=$2
  shift 2
  python generate.py --model "$model" --data "$dir/data/held_out.jsonl" \
    --out "$dir/runs/$run.jsonl" --format think --temperature 0.7 --seed "$seed" \
    --max-tokens 320 $device "$@"
}

# Curation, fine-tuning and budget forcing: one core.
likelihood() {
  # Which traces are too easy for the base model?
  python generate.py --model "$base" --data "$dir/data/pool.jsonl" --out "$dir/attempts.jsonl" \
    --format think --temperature 0.7 --n 2 --seed "$seed" --max-tokens 128 $device
  choose() {                                 # choose SET [flags]
    local set=$1
    shift
    python curate.py --data "$dir/data/pool.jsonl" --against "$dir/data/held_out.jsonl" --k 400 \
      --seed "$seed" "$@" --out "$dir/traces-$set.jsonl"
  }
  choose s1 --method s1 --attempts "$dir/attempts.jsonl"
  choose limo --method limo --words extended --length-cap 120
  choose low --method limo-low --words extended --length-cap 120
  choose random --method random --no-quality
  for set in s1 limo random low; do
    python sft.py --model "$base" --data "$dir/traces-$set.jsonl" --out "$dir/sft-$set" \
      --format think --seed "$seed" --epochs 12 --batch-rows 32 --lr 2e-3 --print-every 25 $device
    answer "$dir/sft-$set" "sft-$set"
  done
  for budget in 0 20 40 80; do
    answer "$dir/sft-s1" "sft-s1-budget$budget" --only math --thinking-budget $budget
  done
  for waits in 1 2 4; do
    answer "$dir/sft-s1" "sft-s1-wait$waits" --only math --waits $waits --wait wait --max-tokens 448
  done
}

# Reinforcement learning: the other core.
reinforcement() {
  answer "$base" base
  python grpo.py --model "$base" --data "$dir/data/train.jsonl" --out "$dir/grpo" --format think \
    --seed "$seed" --steps 100 --prompts-per-step 16 --group-size 8 --max-tokens 128 --lr 5e-4 $device
  answer "$dir/grpo" grpo
}

for ((seed = 0; seed < seeds; seed++)); do
  dir=$out/seed$seed
  base=data/tiny_base
  mkdir -p "$dir/runs"
  if [ -n "${FRESH_BASE:-}" ] && [ "$seed" -gt 0 ]; then
    base=out/tiny_base_seed$seed
    [ -f "$base/training.json" ] || bash recipes/tiny_base.sh --seed "$seed"
  fi
  echo "== seed $seed"
  python -m data.tiny --out "$dir/data" --seed "$seed"
  side_by_side sft likelihood rl reinforcement
done

echo "== results"
python evaluate.py "$out"/seed0/runs/*.jsonl --out "$out/seed0/metrics.json"
tuned=() data=() runs=()
for ((seed = 0; seed < seeds; seed++)); do
  dir=$out/seed$seed
  runs+=("$dir/runs")
  # Models of another base cannot be compared with this one token by token.
  if [ -n "${FRESH_BASE:-}" ] && [ "$seed" -gt 0 ]; then continue; fi
  tuned+=("$dir/sft-s1" "$dir/grpo")
  data+=("$dir/runs/sft-s1.jsonl" "$dir/runs/grpo.jsonl")
done
python analyze.py --base data/tiny_base --tuned "${tuned[@]}" --data "${data[@]}" \
  --runs "${runs[@]}" --claims recipes/tiny_claims.json --out "$out" $device
echo "$(( $(date +%s) - began )) seconds; now open $out/report.html"
