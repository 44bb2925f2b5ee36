#!/usr/bin/env bash
# Spurious Rewards (arXiv 2506.10947): what does RL gain from rewards that know less and less of the answer? Gold answers,
# the model's own majority votes, wrong labels, the format alone, a coin.
#   bash recipes/spurious.sh                                  in the tiny world on a CPU, about 7 minutes on 2 cores
#   MODEL=Qwen/Qwen2.5-1.5B DATA=train.jsonl TEST=test.jsonl FORMAT=r1 MAX_TOKENS=1024 LR=1e-6 VOTES=64 DEVICE=cuda \
#     bash recipes/spurious.sh
# The paper's finding, that Qwen2.5-Math gains from a coin, is about that base model: others do not.
set -euo pipefail
source "$(dirname "$0")/env.sh"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
SEED=${SEED:-0}; STEPS=${STEPS:-100}; MODEL=${MODEL:-data/tiny_base}; FORMAT=${FORMAT:-think}; DEVICE=${DEVICE:-cpu}
LR=${LR:-5e-4}; MAX_TOKENS=${MAX_TOKENS:-128}; PROMPTS=${PROMPTS:-16}; GROUP=${GROUP:-8}; VOTES=${VOTES:-16}
LIMIT=${LIMIT:-400}; ONLY=${ONLY:-correct vote wrong_label format random:0.5}; OUT=${OUT:-out/spurious/seed$SEED}
if [ -z "${DATA:-}" ]; then
  python -m data.tiny --out "$OUT/data" --seed "$SEED"
  DATA=$OUT/data/train.jsonl; TEST=$OUT/data/held_out.jsonl; TASKS=math
fi
answer() {                                # answer MODEL PROBLEMS OUT [flags]
  local model=$1 problems=$2 out=$3; shift 3
  python generate.py --model "$model" --data "$problems" --out "$out" --format "$FORMAT" --seed "$SEED" \
    --max-tokens "$MAX_TOKENS" --device "$DEVICE" "$@"
}
test_of() { answer "$1" "$TEST" "$OUT/runs/$2.jsonl" --temperature 0.7 ${TASKS:+--only "$TASKS"}; }

test_of "$MODEL" base
for reward in $ONLY; do
  name=${reward%%:*}; data=$DATA
  if [ "$reward" = wrong_label ]; then    # the base model's majority answers that are wrong
    answer "$MODEL" "$DATA" "$OUT/votes.jsonl" --n "$VOTES" --temperature 1 --limit "$LIMIT"
    python -m grading.labels --data "$OUT/votes.jsonl" --out "$OUT/labelled.jsonl" --keep wrong
    data=$OUT/labelled.jsonl
  fi
  python grpo.py --model "$MODEL" --data "$data" --out "$OUT/$name" --format "$FORMAT" --seed "$SEED" --steps "$STEPS" \
    --prompts-per-step "$PROMPTS" --group-size "$GROUP" --max-tokens "$MAX_TOKENS" --lr "$LR" --device "$DEVICE" \
    --reward "$reward"
  test_of "$OUT/$name" "$name"
done
python evaluate.py "$OUT"/runs/*.jsonl --base "$OUT/runs/base.jsonl"
