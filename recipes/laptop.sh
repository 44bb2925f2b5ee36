#!/usr/bin/env bash
# s1, GRPO and UniReason with a real language model, in English, on a laptop's CPU:
# cold start -> curation -> SFT -> budgets and Waits -> GRPO -> what was forgotten -> report.
#
#   bash recipes/laptop.sh               SmolLM2-135M-Instruct (data/smollm.py), one seed
#   bash recipes/laptop.sh --quick       fewer rows and steps, no LIMO: does it run here?
#   bash recipes/laptop.sh --seeds 3     traces, fine-tuning, RL and sampling drawn anew
#   MODEL=Qwen/Qwen2.5-0.5B-Instruct DEVICE=cuda DTYPE=bf16 bash recipes/laptop.sh     one GPU
#   MODEL=/path/to/a/model bash recipes/laptop.sh
#
# An instruct model of this size solves none of the problems of data/english.py, so RL has nothing
# to begin with. A cold start teaches it the form: terse searches that often give up, and its own
# answers to open questions, so that it forgets little else. All that follows starts from there.
#
# Two lanes side by side, lines marked [sft] and [rl]. After an interruption the same command
# continues; what is complete is left as it is. Ends with a table and out/laptop/report.html.
set -euo pipefail
source "$(dirname "$0")/env.sh"
seeds=1 quick=
while [ $# -gt 0 ]; do
  case "$1" in
    --quick) quick=1; shift ;;
    --seeds)
      [ "${2:-0}" -ge 1 ] 2>/dev/null ||
        { echo "laptop.sh: --seeds needs a number from 1" >&2; exit 2; }
      seeds=$2
      shift 2 ;;
    *) echo "laptop.sh: unknown argument: $1 (only --quick and --seeds N)" >&2; exit 2 ;;
  esac
done

# Sizes, chosen on the development split. A step of RL is PROMPTS x GROUP completions.
if [ -n "$quick" ]; then
  echo "--quick: 100 problems, 60 traces of s1 and random choice, 8 steps of RL; no LIMO, no Waits"
  echo "         but one: too little for intervals that say anything"
  default COLD=120 OPEN=60 POOL=200 CHOSEN=60 HELD_OUT=100 STEPS=8
  default SETS="s1 random" WAITS=1 BUDGETS=0 OUT=out/laptop-quick
fi
default COLD=300 OPEN=160 POOL=600 CHOSEN=160 HELD_OUT=200 STEPS=40 PROMPTS=8 GROUP=8
default SETS="s1 limo low random" WAITS="1 2 4" BUDGETS="0 24 48" SPLIT=held_out
default COLD_LR=1e-4 SFT_LR=2e-4 RL_LR=1.5e-5 EPOCHS=2 MAX_TOKENS=256 LONGEST=400
default OUT=out/laptop DEVICE=auto MPLBACKEND=Agg

if [ -z "${MODEL:-}" ]; then
  MODEL=out/smollm2-135m-instruct
  python -m data.smollm --out "$MODEL"
fi
# Half of the cores for each lane.
default OMP_NUM_THREADS="$(( ($(getconf _NPROCESSORS_ONLN) + 1) / 2 ))"
[ -n "${DTYPE:-}" ] || DTYPE=$(python -m engine.machine)
computing="--device $DEVICE --dtype $DTYPE"
mkdir -p "$OUT"
began=$(date +%s)

# progress TEXT: minutes since the start, and what is done now.
progress() {
  echo "-- minute $(( ($(date +%s) - began) / 60 )): $*"
}
# answer MODEL PROBLEMS RUN [flags]
answer() {
  local model=$1 problems=$2 run=$3
  shift 3
  python generate.py --model "$model" --data "$problems" --out "$dir/runs/$run.jsonl" $computing \
    --temperature 0.7 --seed "$seed" --max-tokens "$LONGEST" "$@"
}
# measure MODEL RUN: problems, facts by likelihood, instructions, open questions
measure() {
  local model=$1 run=$2
  answer "$model" "$dir/data/$SPLIT.jsonl" "$run"
  python generate.py --model "$model" --data "$dir/data/facts.jsonl" --score --format plain \
    --out "$dir/runs/$run-facts.jsonl" $computing
  answer "$model" "$dir/data/follow.jsonl" "$run-follow" --max-tokens 120
  answer "$model" "$dir/data/free.jsonl" "$run-free" --max-tokens 120
}

# Once for all seeds: the model that everything starts from.
cold_start() {
  dir=$OUT/cold seed=0
  local sizes="--n-cold $COLD --n-open $OPEN"
  python -m data.english --out "$dir/data" $sizes
  progress "the instruct model's own answers"
  answer "$MODEL" "$dir/data/cold_open.jsonl" open --format plain --max-tokens 120
  python -m data.english --out "$dir/data" $sizes --own-answers "$dir/runs/open.jsonl"
  progress "cold start"
  python sft.py --model "$MODEL" --data "$dir/data/cold.jsonl" --out "$base" --format s1 \
    --epochs 2 --batch-rows 16 --lr "$COLD_LR" --print-every 10 --save-minutes 2 $computing
}

# Curation, fine-tuning, budget forcing.
likelihood() {
  progress "which problems does the base model solve already?"
  python generate.py --model "$base" --data "$dir/data/pool.jsonl" --out "$dir/attempts.jsonl" \
    $computing --temperature 0.7 --seed "$seed" --max-tokens 160
  for set in $SETS; do
    case $set in
      s1) how="--method s1 --attempts $dir/attempts.jsonl" ;;
      limo) how="--method limo --words extended" ;;
      low) how="--method limo-low --words extended" ;;
      random) how="--method random --no-quality" ;;
      *) echo "laptop.sh: SETS: unknown set $set" >&2; exit 2 ;;
    esac
    python curate.py --data "$dir/data/pool.jsonl" --against "$dir/data/$SPLIT.jsonl" \
      --layers exact --k "$CHOSEN" --seed "$seed" $how --out "$dir/traces-$set.jsonl"
    progress "fine-tuning on the traces of $set"
    python sft.py --model "$base" --data "$dir/traces-$set.jsonl" --out "$dir/sft-$set" \
      --format s1 --seed "$seed" --epochs "$EPOCHS" --batch-rows 16 --lr "$SFT_LR" \
      --print-every 10 --save-minutes 2 $computing
    answer "$dir/sft-$set" "$dir/data/$SPLIT.jsonl" "sft-$set"
  done
  progress "budgets and Waits"
  for budget in $BUDGETS; do
    answer "$dir/sft-s1" "$dir/data/$SPLIT.jsonl" "sft-s1-budget$budget" --only math \
      --thinking-budget "$budget"
  done
  for waits in $WAITS; do
    answer "$dir/sft-s1" "$dir/data/$SPLIT.jsonl" "sft-s1-wait$waits" --only math \
      --waits "$waits" --max-tokens 600
  done
  measure "$dir/sft-s1" sft-s1
}

reinforcement() {
  measure "$base" base
  python generate.py --model "$MODEL" --data "$dir/data/facts.jsonl" --score --format plain \
    --out "$dir/runs/instruct-facts.jsonl" $computing
  progress "GRPO"
  python grpo.py --model "$base" --data "$dir/data/train.jsonl" --out "$dir/grpo" --format s1 \
    --seed "$seed" --steps "$STEPS" --prompts-per-step "$PROMPTS" --group-size "$GROUP" \
    --max-tokens "$MAX_TOKENS" --lr "$RL_LR" --save-every 5 $computing
  measure "$dir/grpo" grpo
}

base=$OUT/base
[ -f "$base/training.json" ] || cold_start
for ((seed = 0; seed < seeds; seed++)); do
  dir=$OUT/seed$seed
  mkdir -p "$dir/runs"
  echo "== seed $seed"
  python -m data.english --out "$dir/data" --seed "$seed" --n-pool "$POOL" --n-held-out "$HELD_OUT"
  side_by_side sft likelihood rl reinforcement
done

echo "== results"
python evaluate.py "$OUT"/seed0/runs/*.jsonl --out "$OUT/seed0/metrics.json"
tuned=() data=() runs=()
for ((seed = 0; seed < seeds; seed++)); do
  dir=$OUT/seed$seed
  runs+=("$dir/runs")
  tuned+=("$dir/sft-s1" "$dir/grpo")
  data+=("$dir/runs/sft-s1-free.jsonl" "$dir/runs/grpo-free.jsonl")
done
python analyze.py --base "$base" --tuned "${tuned[@]}" --data "${data[@]}" --runs "${runs[@]}" \
  --claims recipes/laptop_claims.json --out "$OUT" --device "$DEVICE" --stream
echo "$(( ($(date +%s) - began) / 60 )) minutes; now open $OUT/report.html"
