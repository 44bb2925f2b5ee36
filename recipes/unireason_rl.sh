#!/usr/bin/env bash
# UniReason, the RL half of its controlled study (arXiv 2507.00432, §2.2, A.3): GRPO from the base
# model; the reward is whether the answer is right. recipes/unireason_sft.sh is the other half, from
# the same problems.
# 512 prompts x 16 rollouts a step, an update for each quarter of them, 1e-6, clip 0.22 / 0.28, no
# KL, no entropy bonus, up to 16,384 tokens, 140 steps. The paper: Qwen3-14B-Base, 47K problems.
#
#   PROBLEMS=problems.jsonl MODEL=Qwen/Qwen3-0.6B-Base PROMPTS=64 GROUP=8 \
#     bash recipes/unireason_rl.sh             one GPU
#   PROBLEMS=problems.jsonl MODEL=Qwen/Qwen3-14B-Base NPROC=8 TP=4 \
#     bash recipes/unireason_rl.sh             one node
#       PROBLEMS  rows with question and answer; without it MATH from the hub
#   DEVICE=cpu LIMIT=20 STEPS=1 PROMPTS=4 GROUP=2 MINIBATCHES=2 MAX_TOKENS=30 \
#     bash recipes/unireason_rl.sh             a trial
#
# Planned, not measured (python -m engine.plan --run unireason-14b-rl, 4,000 tokens an answer,
# --recompute): 14B on 8 x 80 GB 78.6 GiB each, filled up with the rollouts' cache; 1,450 s of
# rollouts and 1,230 s of updates a step, 75 hours per 100 steps.
#
# Expected in the tiny world (recipes/tiny_world.sh unireason_rl; 100 steps; seeds 0, 1, 2; 115 s of
# one core): math 26.3, 31.7, 27.7% -> 67.0, 67.3, 69.0%; other reasoning 99.5, 99.0, 99.0% -> 99.0%
# each; tasks without reasoning 100% -> 100%. Right in training, by fifths of the run: 36, 58, 67,
# 68, 71%; tokens 44, 63, 67, 70, 69.
set -euo pipefail
source "$(dirname "$0")/env.sh"
default MODEL=Qwen/Qwen3-0.6B-Base DEVICE=cuda OUT=out/unireason-rl LIMIT=0 FORMAT=think
default REWARD=correct STEPS=140 PROMPTS=512 GROUP=16 MINIBATCHES=4 LR=1e-6
default MAX_TOKENS=16384 MICRO=18432 TP=1 TEST_NAME=math500
default DTYPE=$([ "$DEVICE" = cpu ] && echo fp32 || echo bf16)
problem_set=$([ -n "${PROBLEMS:-}" ] && echo rows || echo math)
seed=${SEED:+--seed $SEED}

answer() {                                   # answer MODEL RUN
  run generate.py --model "$1" --data "$OUT/math500.jsonl" --out "$OUT/$2.jsonl" \
    --format "$FORMAT" --temperature 0.6 --top-p 0.95 --max-tokens "$MAX_TOKENS" \
    --device "$DEVICE" --dtype "$DTYPE" --tp "$TP" $seed
}

python -m data.prepare --name "$problem_set" ${PROBLEMS:+--source "$PROBLEMS"} --limit "$LIMIT" \
  --out "$OUT/problems.jsonl"
python -m data.prepare --name "$TEST_NAME" ${TEST:+--source "$TEST"} --limit "$LIMIT" \
  --out "$OUT/math500.jsonl"
answer "$MODEL" before
run grpo.py --model "$MODEL" --data "$OUT/problems.jsonl" --out "$OUT/model" --format "$FORMAT" \
  --reward "$REWARD" --steps "$STEPS" --prompts-per-step "$PROMPTS" --group-size "$GROUP" \
  --minibatches "$MINIBATCHES" --max-tokens "$MAX_TOKENS" --lr "$LR" \
  --eps-low 0.22 --eps-high 0.28 --kl-every 0 --micro-batch-tokens "$MICRO" --device "$DEVICE" \
  --dtype "$DTYPE" --tp "$TP" $seed ${FLAGS:-}
answer "$OUT/model" after
python evaluate.py "$OUT/before.jsonl" "$OUT/after.jsonl" --base "$OUT/before.jsonl"
python analyze.py --base "$MODEL" --tuned "$OUT/model" --data "$OUT/after.jsonl" \
  --out "$OUT/analysis" --device "$DEVICE" --dtype "$DTYPE" --stream
