#!/usr/bin/env bash
# s1, GRPO and UniReason with a real language model, in English, on a laptop's CPU:
# cold start -> curation -> SFT -> budgets and Waits -> GRPO -> what was forgotten -> report.
#
#   bash recipes/laptop.sh               SmolLM2-135M-Instruct (data/smollm.py), one seed
#   bash recipes/laptop.sh --quick       fewer rows and steps, no LIMO: does it run here?
#   bash recipes/laptop.sh --seeds 3     traces, fine-tuning, RL and sampling drawn anew
#   MODEL=Qwen/Qwen2.5-0.5B-Instruct DEVICE=cuda DTYPE=bf16 bash recipes/laptop.sh     one GPU,
#     by the plan (python -m engine.plan --model qwen2.5-0.5b --gpus 1x4090 [--stage grpo]) 12 GB
#     for fine-tuning and 17 for GRPO. LANES=1 does one after the other.
#   MODEL=/path/to/a/model bash recipes/laptop.sh
#   EQUAL_FLOPS=1 bash recipes/laptop.sh     fine-tuning with as many FLOPs as GRPO, too
#   REAL="out/benchmarks/gsm8k.jsonl ..." bash recipes/laptop.sh      problems of real sets, too
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
  echo "--quick: 100 problems, 60 traces of s1 and of random choice, one pass over them, 8 steps of"
  echo "         RL; no LIMO, no gentle rate, one Wait: too little for intervals that say anything"
  default COLD=120 OPEN=60 POOL=200 CHOSEN=60 EPOCHS=1 HELD_OUT=100 STEPS=8
  default SETS="s1 random" GENTLE_LR=none WAITS=1 BUDGETS=0 OUT=out/laptop-quick
fi
default COLD=480 OPEN=200 POOL=400 CHOSEN=100 EPOCHS=2 HELD_OUT=200 STEPS=10 PROMPTS=8 GROUP=8
default SETS="s1 limo low random" WAITS="1 2" BUDGETS="0 40" SPLIT=held_out
default COLD_LR=3e-4 SFT_LR=3e-4 GENTLE_LR=1e-4 FLOPS_LR=1e-4 RL_LR=5e-5
default MAX_TOKENS=300 LONGEST=500
default EQUAL_FLOPS= OUT=out/laptop DEVICE=auto MEMORY_GB=9 MPLBACKEND=Agg

if [ -z "${MODEL:-}" ]; then
  MODEL=out/smollm2-135m-instruct
  python -m data.smollm --out "$MODEL"
fi
echo "model: $MODEL"
# Half of the cores for each lane.
default OMP_NUM_THREADS="$(( ($(getconf _NPROCESSORS_ONLN) + 1) / 2 ))"
# Two models are trained at a time.
faster=$(python -m engine.machine --needs-gb "$MEMORY_GB")
default DTYPE="$faster"
computing="--device $DEVICE --dtype $DTYPE"
# In bf16 the sampler rounds its weights, and training its products: the same token can be twice as
# likely for one as for the other. So the update takes probabilities from the forward pass of
# training, and weights each token by the ratio of the two, at most 2.
correction=
[ "$DTYPE" = fp32 ] || correction="--tis 2"
mkdir -p "$OUT"
began=$(date +%s) part_began=$began

# progress DONE TEXT: minutes since the start, what is done now, and how long this part may take.
# DONE: percent of the part's time that has gone by, an estimate.
progress() {
  local now left=
  now=$(date +%s)
  if [ "$1" -gt 0 ]; then
    left=$(( (now - part_began) * (100 - $1) / $1 / 60 + 1 ))
    left=", $part takes about $left more"
  fi
  echo "-- minute $(( (now - began) / 60 ))$left: ${*:2}"
}
# answer MODEL PROBLEMS RUN [flags]
answer() {
  local model=$1 problems=$2 run=$3
  shift 3
  python generate.py --model "$model" --data "$problems" --out "$dir/runs/$run.jsonl" $computing \
    --temperature 0.7 --seed "$seed" --max-tokens "$LONGEST" "$@"
}
# facts MODEL RUN: the likelihood of each choice of each fact
facts() {
  python generate.py --model "$1" --data "$dir/data/facts.jsonl" --score --format plain \
    --out "$dir/runs/$2-facts.jsonl" $computing
}
# measure MODEL RUN: problems, facts, instructions, open questions, real sets
measure() {
  local file
  answer "$1" "$dir/data/$SPLIT.jsonl" "$2"
  facts "$1" "$2"
  answer "$1" "$dir/data/follow.jsonl" "$2-follow" --max-tokens 100
  answer "$1" "$dir/data/free.jsonl" "$2-free" --max-tokens 100
  for file in ${REAL:-}; do
    answer "$1" "$file" "$2-$(basename "$file" .jsonl)" --max-tokens 400
  done
}
# fine_tune NAME SET LR [flags]: the base model on the traces of a set
fine_tune() {
  local name=$1 set=$2 lr=$3
  shift 3
  python sft.py --model "$base" --data "$dir/traces-$set.jsonl" --out "$dir/sft-$name" \
    --format s1 --seed "$seed" --epochs "$EPOCHS" --batch-rows 16 --lr "$lr" --print-every 10 \
    --save-minutes 2 $computing "$@"
}

# Once for all seeds: the model that everything starts from.
cold_start() {
  dir=$OUT/cold seed=0 part="the cold start"
  local sizes="--n-cold $COLD --n-open $OPEN"
  python -m data.english --out "$dir/data" $sizes
  progress 0 "the instruct model's own answers"
  answer "$MODEL" "$dir/data/cold_open.jsonl" open --format plain --max-tokens 100
  python -m data.english --out "$dir/data" $sizes --own-answers "$dir/runs/open.jsonl"
  progress 4 "cold start"
  python sft.py --model "$MODEL" --data "$dir/data/cold.jsonl" --out "$base" --format s1 \
    --epochs 2 --batch-rows 16 --lr "$COLD_LR" --print-every 10 --save-minutes 2 $computing
}

# Curation, fine-tuning, budget forcing.
likelihood() {
  local how set done=8
  progress 0 "which problems does the base model solve already?"
  python generate.py --model "$base" --data "$dir/data/pool.jsonl" --out "$dir/attempts.jsonl" \
    $computing --temperature 0.7 --seed "$seed" --max-tokens 120
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
    progress "$done" "fine-tuning on the traces of $set"
    fine_tune "$set" "$set" "$SFT_LR"
    if [ "$set" = s1 ]; then
      measure "$dir/sft-s1" sft-s1
    else
      answer "$dir/sft-$set" "$dir/data/$SPLIT.jsonl" "sft-$set" --only math
    fi
    done=$((done + 14))
  done
  progress 64 "budgets and Waits"
  for budget in $BUDGETS; do
    answer "$dir/sft-s1" "$dir/data/$SPLIT.jsonl" "sft-s1-budget$budget" --only math \
      --thinking-budget "$budget"
  done
  for waits in $WAITS; do
    answer "$dir/sft-s1" "$dir/data/$SPLIT.jsonl" "sft-s1-wait$waits" --only math \
      --waits "$waits" --max-tokens $((2 * LONGEST))
  done
  if [ "$GENTLE_LR" != none ]; then
    progress 84 "fine-tuning on the traces of s1 at a gentle rate"
    fine_tune gentle s1 "$GENTLE_LR"
    measure "$dir/sft-gentle" sft-gentle
  fi
}

reinforcement() {
  progress 0 "the base model"
  measure "$base" base
  facts "$MODEL" instruct
  progress 10 "GRPO"
  # Sampling is cheaper here than training, and at first most groups are all wrong. So sample until
  # every group of the step has something to learn from.
  python grpo.py --model "$base" --data "$dir/data/train.jsonl" --out "$dir/grpo" --format s1 \
    --seed "$seed" --steps "$STEPS" --prompts-per-step "$PROMPTS" --group-size "$GROUP" \
    --temperature 0.7 --max-tokens "$MAX_TOKENS" --lr "$RL_LR" --dynamic-sampling \
    --save-every 2 --kl-every 0 $correction $computing
  progress 92 "what GRPO changed"
  measure "$dir/grpo" grpo
  if [ -n "$EQUAL_FLOPS" ]; then
    progress 99 "fine-tuning with as many FLOPs as GRPO, which takes as long"
    # Enough epochs for any budget: --match-flops ends it.
    EPOCHS=100 fine_tune flops s1 "$FLOPS_LR" --match-flops "$dir/grpo"
    measure "$dir/sft-flops" sft-flops
  fi
}

base=$OUT/base
[ -f "$base/training.json" ] || cold_start
for ((seed = 0; seed < seeds; seed++)); do
  dir=$OUT/seed$seed part="seed $seed" part_began=$(date +%s)
  mkdir -p "$dir/runs"
  echo "== seed $seed"
  python -m data.english --out "$dir/data" --seed "$seed" --n-pool "$POOL" --n-held-out "$HELD_OUT"
  side_by_side sft likelihood rl reinforcement
done

echo "== results"
python evaluate.py "$OUT"/seed0/runs/*.jsonl --out "$OUT/seed0/metrics.json"
tuned=() data=() runs=()
names="sft-s1 grpo"
[ "$GENTLE_LR" = none ] || names="$names sft-gentle"
[ -z "$EQUAL_FLOPS" ] || names="$names sft-flops"
for ((seed = 0; seed < seeds; seed++)); do
  runs+=("$OUT/seed$seed/runs")
  for name in $names; do
    tuned+=("$OUT/seed$seed/$name")
    data+=("$OUT/seed$seed/runs/$name-free.jsonl")
  done
done
# Claims about runs that were not asked for (--quick has no LIMO) are left out.
python - recipes/laptop_claims.json "${runs[@]}" > "$OUT/claims.json" <<'PYTHON'
import json
import sys
from pathlib import Path

file, *folders = sys.argv[1:]
claims = [
    claim
    for claim in json.loads(Path(file).read_text(encoding="utf-8"))
    if all(Path(f, f"{claim[side]}.jsonl").exists() for f in folders for side in ("from", "to"))
]
print(json.dumps(claims, indent=1))
PYTHON
# The tiny world's curve of accuracy and thinking, where tiny.sh was run.
beside=$(ls -d out/tiny/seed*/runs 2>/dev/null || true)
python analyze.py --base "$base" --tuned "${tuned[@]}" --data "${data[@]}" --runs "${runs[@]}" \
  --claims "$OUT/claims.json" --out "$OUT" --device "$DEVICE" --stream \
  ${beside:+--beside $beside}
echo "$(( ($(date +%s) - began) / 60 )) minutes; now open $OUT/report.html"
