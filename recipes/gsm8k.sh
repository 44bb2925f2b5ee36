#!/usr/bin/env bash
# GRPO with verifiable rewards on GSM8K, as in DeepSeek-R1-Zero (arXiv 2501.12948, §2.2).
#
#   MODEL=Qwen/Qwen2.5-0.5B-Instruct bash recipes/gsm8k.sh        one GPU; needs the hub, or copies:
#   MODEL=/models/qwen TRAIN=train.jsonl TEST=test.jsonl NAME=rows bash recipes/gsm8k.sh
#   NPROC=8 MODEL=Qwen/Qwen2.5-7B-Instruct bash recipes/gsm8k.sh     a node
#   DEVICE=cpu LIMIT=20 STEPS=1 PROMPTS=4 GROUP=2 MAX_TOKENS=30 bash recipes/gsm8k.sh    a trial
#
# Planned, not measured (python -m engine.plan --stage grpo, 250 tokens an answer, --with-reference,
# 16,384 tokens a micro-batch): 0.5B on one H100 38.6 GiB, 1.5B with MICRO=8192 62.5 GiB; 3 and 6
# minutes per 100 steps, which at this length leaves out most of what takes time.
#
# Expected in the tiny world (recipes/tiny_world.sh gsm8k: its math problems; 100 steps; seeds 0, 1,
# 2; 115 s of one core): 26.3, 25.7, 22.7% -> 66.3, 68.0, 71.3%; thinking 28 -> 69 tokens. Right in
# training, by fifths of the run: 33, 54, 65, 67, 70%.
set -euo pipefail
source "$(dirname "$0")/env.sh"
default MODEL=Qwen/Qwen2.5-0.5B-Instruct DEVICE=cuda OUT=out/gsm8k NAME=gsm8k LIMIT=0 FORMAT=plain
default STEPS=200 PROMPTS=64 GROUP=8 LR=1e-6 MAX_TOKENS=512 TEMPERATURE=0 MICRO=16384
default DTYPE=$([ "$DEVICE" = cpu ] && echo fp32 || echo bf16)
seed=${SEED:+--seed $SEED}

prepare() {                                  # prepare SPLIT SOURCE (maybe empty)
  python -m data.prepare --name "$NAME" --split "$1" ${2:+--source "$2"} --limit "$LIMIT" \
    --out "$OUT/$1.jsonl"
}
answer() {                                   # answer MODEL RUN
  run generate.py --model "$1" --data "$OUT/test.jsonl" --out "$OUT/$2.jsonl" --format "$FORMAT" \
    --temperature "$TEMPERATURE" --max-tokens "$MAX_TOKENS" --device "$DEVICE" --dtype "$DTYPE" \
    $seed
}

prepare train "${TRAIN:-}"
prepare test "${TEST:-}"
answer "$MODEL" before
run grpo.py --model "$MODEL" --data "$OUT/train.jsonl" --out "$OUT/model" --format "$FORMAT" \
  --steps "$STEPS" --prompts-per-step "$PROMPTS" --group-size "$GROUP" --max-tokens "$MAX_TOKENS" \
  --lr "$LR" --micro-batch-tokens "$MICRO" --device "$DEVICE" --dtype "$DTYPE" $seed ${FLAGS:-}
answer "$OUT/model" after
python evaluate.py "$OUT/before.jsonl" "$OUT/after.jsonl" --base "$OUT/before.jsonl"
python analyze.py --base "$MODEL" --tuned "$OUT/model" --data "$OUT/after.jsonl" \
  --out "$OUT/analysis" --device "$DEVICE"
