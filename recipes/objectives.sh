#!/usr/bin/env bash
# One problem set, one base model, eight objectives: GRPO (2402.03300), Dr. GRPO (2503.20783), DAPO
# (2503.14476), GSPO (2507.18071), CISPO (2506.13585), RLOO (2402.14740), NFT (2505.18116) and
# expert iteration.
#
#   bash recipes/objectives.sh               in the tiny world on a CPU, about 10 minutes on 2 cores
#   ONLY="grpo nft" STEPS=50 SEED=1 bash recipes/objectives.sh
#   MODEL=Qwen/Qwen2.5-1.5B DATA=train.jsonl TEST=test.jsonl FORMAT=r1 MAX_TOKENS=1024 LR=1e-6 \
#     DEVICE=cuda bash recipes/objectives.sh
#
# Ends with a table of held-out accuracy and paired differences to the base model.
set -euo pipefail
source "$(dirname "$0")/env.sh"
default OMP_NUM_THREADS=1 MODEL=data/tiny_base FORMAT=think DEVICE=cpu SEED=0 STEPS=100
default LR=5e-4 MAX_TOKENS=128 PROMPTS=16 GROUP=8 OUT="out/objectives/seed$SEED"
default ONLY="grpo dr-grpo dapo gspo cispo rloo nft rft"
if [ -z "${DATA:-}" ]; then
  python -m data.tiny --out "$OUT/data" --seed "$SEED"
  DATA=$OUT/data/train.jsonl TEST=$OUT/data/held_out.jsonl TASKS=math
fi

flags_of() {                                 # flags_of OBJECTIVE
  case $1 in
    grpo) echo --normalise sequence ;;
    dr-grpo) echo --adv-std none --normalise constant ;;
    dapo) echo --eps-high 0.28 --dynamic-sampling --reward "correct+overlong:$((MAX_TOKENS / 4))" ;;
    gspo) echo --loss gspo --normalise sequence --eps-low 3e-4 --eps-high 4e-4 ;;
    cispo) echo --loss cispo --eps-low 1 --eps-high 0.28 ;;
    rloo) echo --loss reinforce --baseline others --adv-std none --normalise constant ;;
    nft) echo --loss nft --adv-std none ;;
    rft) echo --loss rft ;;
    *) echo "objectives.sh: unknown objective in ONLY: $1" >&2; return 2 ;;
  esac
}
answer() {                                   # answer MODEL RUN
  python generate.py --model "$1" --data "$TEST" --out "$OUT/runs/$2.jsonl" --format "$FORMAT" \
    --temperature 0.7 --seed "$SEED" --max-tokens "$MAX_TOKENS" --device "$DEVICE" \
    ${TASKS:+--only "$TASKS"}
}

answer "$MODEL" base
for name in $ONLY; do
  flags=$(flags_of "$name")
  # shellcheck disable=SC2086
  python grpo.py --model "$MODEL" --data "$DATA" --out "$OUT/$name" --format "$FORMAT" \
    --seed "$SEED" --steps "$STEPS" --prompts-per-step "$PROMPTS" --group-size "$GROUP" \
    --max-tokens "$MAX_TOKENS" --lr "$LR" --device "$DEVICE" $flags
  answer "$OUT/$name" "$name"
done
python evaluate.py "$OUT"/runs/*.jsonl --base "$OUT/runs/base.jsonl"
