#!/usr/bin/env bash
# s1 (arXiv 2501.19393): fine-tune on s1K, then trade thinking tokens for accuracy with budget forcing.
# §D: 5 epochs, 16 rows a step (315 steps), peak 1e-5, 5% warm-up, cosine to 0, AdamW 0.9 / 0.95, weight decay 1e-4, rows of
# up to 32,768 tokens. The paper: Qwen2.5-32B-Instruct, 26 minutes on 16 H100 (7 GPU hours).
#   MODEL=Qwen/Qwen2.5-0.5B-Instruct bash recipes/s1.sh        one GPU; needs the hub, or local copies:
#   MODEL=/models/qwen SOURCE=s1k.parquet TEST=math500.jsonl bash recipes/s1.sh
#   MODEL=Qwen/Qwen2.5-32B-Instruct NPROC=8 FLAGS="--recompute --adam-dtype bf16" TP=8 bash recipes/s1.sh     one node
# Fine-tuning, planned, not measured (plan.py --run s1-32b): 0.5B on one H100 14.9 GiB, 6 minutes; 32B on 8 x 80 GB with these
# FLAGS 76.6 GiB each, 0.6 hours; on 8 H200 without --adam-dtype 92.7 GiB, 0.6 hours.
# DEVICE=cpu LIMIT=20 EPOCHS=1 MAX_TOKENS=200 BUDGETS=50 WAITS=1 tries the plumbing on a laptop.
set -euo pipefail
source "$(dirname "$0")/env.sh"
MODEL=${MODEL:-Qwen/Qwen2.5-0.5B-Instruct}; DEVICE=${DEVICE:-cuda}; OUT=${OUT:-out/s1}; LIMIT=${LIMIT:-0}
DTYPE=${DTYPE:-$([ "$DEVICE" = cpu ] && echo fp32 || echo bf16)}; FLAGS=${FLAGS:---recompute}
EPOCHS=${EPOCHS:-5}; MAX_TOKENS=${MAX_TOKENS:-32000}; BUDGETS=${BUDGETS:-500 1000 2000 4000 8000 16000}; WAITS=${WAITS:-1 2 4 6}
run() { if [ -n "${NPROC:-}" ]; then torchrun --nproc-per-node "$NPROC" -- "$@"; else python "$@"; fi; }   # NPROC: GPUs

python -m data.prepare --name s1k ${SOURCE:+--source "$SOURCE"} --limit "$LIMIT" --out "$OUT/s1k.jsonl"
python -m data.prepare --name math500 ${TEST:+--source "$TEST"} --limit "$LIMIT" --out "$OUT/math500.jsonl"
python curate.py --data "$OUT/s1k.jsonl" --against "$OUT/math500.jsonl" --method full --out "$OUT/traces.jsonl"
run sft.py --model "$MODEL" --data "$OUT/traces.jsonl" --out "$OUT/model" --format s1 --epochs "$EPOCHS" \
  --batch-rows 16 --lr 1e-5 --warmup 0.05 --weight-decay 1e-4 --beta1 0.9 --beta2 0.95 --device "$DEVICE" --dtype "$DTYPE" $FLAGS
answer() { run generate.py --model "$OUT/model" --data "$OUT/math500.jsonl" --format s1 --device "$DEVICE" --tp "${TP:-1}" \
  --dtype "$DTYPE" --max-tokens "$MAX_TOKENS" --slots "${SLOTS:-64}" "$@"; }
answer --out "$OUT/natural.jsonl"
for budget in $BUDGETS; do answer --out "$OUT/budget$budget.jsonl" --thinking-budget "$budget"; done
for waits in $WAITS; do answer --out "$OUT/wait$waits.jsonl" --waits "$waits"; done
python evaluate.py "$OUT"/natural.jsonl "$OUT"/budget*.jsonl "$OUT"/wait*.jsonl
