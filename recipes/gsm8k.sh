#!/usr/bin/env bash
# GRPO with verifiable rewards on GSM8K, in the manner of DeepSeek-R1-Zero (arXiv 2501.12948, §2.2).
#   MODEL=Qwen/Qwen2.5-0.5B-Instruct bash recipes/gsm8k.sh     one GPU; needs the hub, or local copies:
#   MODEL=/models/qwen TRAIN=train.jsonl TEST=test.jsonl NAME=rows bash recipes/gsm8k.sh
set -euo pipefail
source "$(dirname "$0")/env.sh"
MODEL=${MODEL:-Qwen/Qwen2.5-0.5B-Instruct}; DEVICE=${DEVICE:-cuda}; OUT=${OUT:-out/gsm8k}; LIMIT=${LIMIT:-0}
NAME=${NAME:-gsm8k}; STEPS=${STEPS:-200}; MAX_TOKENS=${MAX_TOKENS:-512}

python -m data.prepare --name "$NAME" --split train ${TRAIN:+--source "$TRAIN"} --limit "$LIMIT" --out "$OUT/train.jsonl"
python -m data.prepare --name "$NAME" --split test ${TEST:+--source "$TEST"} --limit "$LIMIT" --out "$OUT/test.jsonl"
answer() { python generate.py --model "$1" --data "$OUT/test.jsonl" --out "$OUT/$2.jsonl" --format plain \
  --max-tokens "$MAX_TOKENS" --device "$DEVICE"; }
answer "$MODEL" before
python grpo.py --model "$MODEL" --data "$OUT/train.jsonl" --out "$OUT/model" --format plain --steps "$STEPS" \
  --prompts-per-step "${PROMPTS:-64}" --group-size "${GROUP:-8}" --max-tokens "$MAX_TOKENS" --lr "${LR:-1e-6}" \
  --device "$DEVICE"
answer "$OUT/model" after
python evaluate.py "$OUT/before.jsonl" "$OUT/after.jsonl" --base "$OUT/before.jsonl"
python analyze.py --base "$MODEL" --tuned "$OUT/model" --data "$OUT/after.jsonl" --out "$OUT/analysis" --device "$DEVICE"
