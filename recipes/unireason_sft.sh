#!/usr/bin/env bash
# UniReason, the SFT half of its controlled study (arXiv 2507.00432, §2.2, A.3): a teacher answers
# 47K math problems, its right answers are kept (rejection sampling), the base model imitates them.
# recipes/unireason_rl.sh is the other half, from the same problems; recipes/unireason.sh runs both
# and compares what they changed.
# 5e-5, 512 rows a step, 1.5 epochs (138 steps). Not reported are schedule, warm-up and length: here
# cosine, 10% and 16,384 as in RL. Epochs are whole here: 1 by default, EPOCHS=2 gives 184 steps.
# The paper: Qwen3-14B-Base, teacher Qwen3-32B in thinking mode.
#
#   PROBLEMS=problems.jsonl TEACHER=Qwen/Qwen3-32B MODEL=Qwen/Qwen3-0.6B-Base \
#     bash recipes/unireason_sft.sh            one GPU
#   TRACES=answers.jsonl MODEL=Qwen/Qwen3-14B-Base NPROC=8 \
#     bash recipes/unireason_sft.sh            one node
#       PROBLEMS  rows with question and answer; without it MATH from the hub
#       TRACES    a teacher's completions, where there are some already
#   DEVICE=cpu LIMIT=20 BATCH=8 MAX_LENGTH=512 MAX_TOKENS=100 \
#     bash recipes/unireason_sft.sh            a trial
#
# Fine-tuning, planned, not measured (python -m engine.plan --run unireason-14b-sft, 5,000 tokens a
# row): 0.5B on one H100 12.1 GiB, 1.2 hours; 14B on 8 x 80 GB 49.2 GiB each, 3.7 hours.
#
# Expected in the tiny world (recipes/tiny_world.sh unireason_sft; seeds 0, 1, 2; 40 s of one core):
# math 26.7, 31.7, 28.0% -> 65.0, 65.3, 63.0%; other reasoning 99% -> 76.0, 79.5, 77.5%; tasks
# without reasoning 100% -> 74.2, 74.2, 77.3%.
set -euo pipefail
source "$(dirname "$0")/env.sh"
default MODEL=Qwen/Qwen3-0.6B-Base TEACHER=Qwen/Qwen3-32B DEVICE=cuda OUT=out/unireason-sft LIMIT=0
default EPOCHS=1 BATCH=512 LR=5e-5 MAX_LENGTH=16384 MAX_TOKENS=16384 TP=1 FLAGS=--recompute
default TEST_NAME=math500
default DTYPE=$([ "$DEVICE" = cpu ] && echo fp32 || echo bf16)
problem_set=$([ -n "${PROBLEMS:-}" ] && echo rows || echo math)
seed=${SEED:+--seed $SEED}

answer() {                                   # answer MODEL PROBLEMS RUN
  run generate.py --model "$1" --data "$2" --out "$OUT/$3.jsonl" --format think --temperature 0.6 \
    --top-p 0.95 --max-tokens "$MAX_TOKENS" --device "$DEVICE" --dtype "$DTYPE" --tp "$TP" $seed
}

python -m data.prepare --name "$TEST_NAME" ${TEST:+--source "$TEST"} --limit "$LIMIT" \
  --out "$OUT/math500.jsonl"
if [ -z "${TRACES:-}" ]; then
  python -m data.prepare --name "$problem_set" ${PROBLEMS:+--source "$PROBLEMS"} --limit "$LIMIT" \
    --out "$OUT/problems.jsonl"
  answer "$TEACHER" "$OUT/problems.jsonl" teacher
  TRACES=$OUT/teacher.jsonl
fi
python curate.py --data "$TRACES" --against "$OUT/math500.jsonl" --method full --keep correct \
  --out "$OUT/traces.jsonl"
run sft.py --model "$MODEL" --data "$OUT/traces.jsonl" --out "$OUT/model" --format think \
  --epochs "$EPOCHS" --batch-rows "$BATCH" --lr "$LR" --warmup 0.1 --weight-decay 0 \
  --max-length "$MAX_LENGTH" --micro-batch-tokens "$MAX_LENGTH" --device "$DEVICE" \
  --dtype "$DTYPE" $seed $FLAGS
answer "$MODEL" "$OUT/math500.jsonl" before
answer "$OUT/model" "$OUT/math500.jsonl" after
python evaluate.py "$OUT/before.jsonl" "$OUT/after.jsonl" --base "$OUT/before.jsonl"
