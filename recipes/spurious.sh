#!/usr/bin/env bash
# Spurious Rewards (arXiv 2506.10947): what does RL gain from rewards that know less and less of the
# answer? Gold answers, the model's own majority votes, wrong labels, the format alone, a coin.
#
#   bash recipes/spurious.sh                  in the tiny world on a CPU, about 7 minutes on 2 cores
#   MODEL=Qwen/Qwen2.5-1.5B DATA=train.jsonl TEST=test.jsonl FORMAT=r1 MAX_TOKENS=1024 LR=1e-6 \
#     VOTES=64 DEVICE=cuda bash recipes/spurious.sh
#
# The paper finds that Qwen2.5-Math gains from a coin. Other base models do not.
set -euo pipefail
source "$(dirname "$0")/env.sh"
default OMP_NUM_THREADS=1 MODEL=data/tiny_base FORMAT=think DEVICE=cpu SEED=0 STEPS=100
default LR=5e-4 MAX_TOKENS=128 PROMPTS=16 GROUP=8 VOTES=16 LIMIT=400 OUT="out/spurious/seed$SEED"
default ONLY="correct vote wrong_label format random:0.5"
if [ -z "${DATA:-}" ]; then
  python -m data.tiny --out "$OUT/data" --seed "$SEED"
  DATA=$OUT/data/train.jsonl TEST=$OUT/data/held_out.jsonl TASKS=math
fi

answer() {                                   # answer MODEL PROBLEMS OUT [flags]
  local model=$1 problems=$2 out=$3
  shift 3
  python generate.py --model "$model" --data "$problems" --out "$out" --format "$FORMAT" \
    --seed "$SEED" --max-tokens "$MAX_TOKENS" --device "$DEVICE" "$@"
}
answer_test() {                              # answer_test MODEL RUN
  answer "$1" "$TEST" "$OUT/runs/$2.jsonl" --temperature 0.7 ${TASKS:+--only "$TASKS"}
}

answer_test "$MODEL" base
for reward in $ONLY; do
  name=${reward%%:*}
  data=$DATA
  if [ "$reward" = wrong_label ]; then       # the base model's majority answers that are wrong
    answer "$MODEL" "$DATA" "$OUT/votes.jsonl" --n "$VOTES" --temperature 1 --limit "$LIMIT"
    python -m grading.labels --data "$OUT/votes.jsonl" --out "$OUT/labelled.jsonl" --keep wrong
    data=$OUT/labelled.jsonl
  fi
  python grpo.py --model "$MODEL" --data "$data" --out "$OUT/$name" --format "$FORMAT" \
    --seed "$SEED" --steps "$STEPS" --prompts-per-step "$PROMPTS" --group-size "$GROUP" \
    --max-tokens "$MAX_TOKENS" --lr "$LR" --device "$DEVICE" --reward "$reward"
  answer_test "$OUT/$name" "$name"
done
python evaluate.py "$OUT"/runs/*.jsonl --base "$OUT/runs/base.jsonl"
