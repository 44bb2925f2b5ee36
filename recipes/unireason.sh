#!/usr/bin/env bash
# UniReason's controlled study (arXiv 2507.00432, §2.2): fine-tuning on a teacher's right answers
# against GRPO on the same prompts, from the same base model. What do both win in mathematics, what
# do they lose elsewhere, and what changed inside?
#
#   bash recipes/unireason.sh --seeds 3  tiny world, CPU, offline; ends in out/unireason/report.html
#   MODEL=Qwen/Qwen3-14B-Base PROBLEMS=problems.jsonl TASKS=tasks.jsonl NPROC=8 TP=4 \
#     bash recipes/unireason.sh
#       PROBLEMS  rows with question and answer that both train on (the paper: 47K). Further
#                 variables are those of unireason_sft.sh (TEACHER or TRACES) and unireason_rl.sh
#       TASKS     what is measured: problems whose `group` is math, other or plain and whose `task`
#                 is the benchmark
#
# recipes/tiny.sh shows the same with curated traces, beside everything else. After an interruption
# the same command continues.
set -euo pipefail
source "$(dirname "$0")/env.sh"
seeds=1                                      # of everything that is drawn at random
if [ "${1:-}" = --seeds ] && [ "${2:-0}" -ge 1 ] 2>/dev/null; then
  seeds=$2
elif [ $# -gt 0 ]; then
  echo "unireason.sh: unknown arguments: $* (only --seeds N)" >&2
  exit 2
fi
OUT=${OUT:-out/unireason}

if [ -z "${MODEL:-}" ]; then
  export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 OMP_NUM_THREADS=1 MPLBACKEND=Agg
  base=data/tiny_base
  device="--device cpu"
  sampling="--temperature 0.7 --max-tokens 320"
  memory=
else
  : "${TASKS:?TASKS=tasks.jsonl is needed with MODEL}"
  base=$MODEL
  device="--device ${DEVICE:-cuda} --dtype ${DTYPE:-bf16}"
  sampling="--temperature 0.6 --top-p 0.95 --max-tokens ${MAX_TOKENS:-32768} --tp ${TP:-1}"
  memory=--stream
fi

# Both trainings, from the same prompts, into $dir/sft and $dir/rl.
train_with_papers_settings() {
  OUT=$dir/sft-run bash recipes/unireason_sft.sh
  ln -sfn sft-run/model "$dir/sft"
  OUT=$dir/rl-run bash recipes/unireason_rl.sh
  ln -sfn rl-run/model "$dir/rl"
}
train_tiny() {
  python -m data.tiny --out "$dir/data" --seed "$seed"
  # Rejection sampling: the teacher's right answers. Both trainings have their questions.
  python curate.py --data "$dir/data/pool.jsonl" --against "$tasks" --method full --keep correct \
    --out "$dir/traces.jsonl"
  python sft.py --model "$base" --data "$dir/traces.jsonl" --out "$dir/sft" --format think \
    --seed "$seed" --epochs 3 --batch-rows 32 --lr 2e-3 --print-every 25
  python grpo.py --model "$base" --data "$dir/traces.jsonl" --out "$dir/rl" --format think \
    --seed "$seed" --steps 100 --prompts-per-step 16 --group-size 8 --max-tokens 128 --lr 5e-4
}
answer() {                                   # answer MODEL RUN: the three groups of tasks
  run generate.py --model "$1" --data "$tasks" --out "$dir/runs/$2.jsonl" --format think \
    --seed "$seed" $device $sampling
}

tuned=() data=() runs=()
for ((seed = 0; seed < seeds; seed++)); do
  dir=$OUT/seed$seed
  tasks=${TASKS:-$dir/data/held_out.jsonl}
  mkdir -p "$dir/runs"
  echo "== seed $seed"
  if [ -n "${MODEL:-}" ]; then train_with_papers_settings; else train_tiny; fi
  answer "$base" base
  answer "$dir/sft" sft
  answer "$dir/rl" rl
  tuned+=("$dir/sft" "$dir/rl")
  data+=("$dir/runs/sft.jsonl" "$dir/runs/rl.jsonl")
  runs+=("$dir/runs")
done

echo "== results"
for place in "${runs[@]}"; do
  python evaluate.py "$place/sft.jsonl" "$place/rl.jsonl" --base "$place/base.jsonl" --ti v2
done
python analyze.py --base "$base" --tuned "${tuned[@]}" --data "${data[@]}" --runs "${runs[@]}" \
  --claims recipes/unireason_claims.json --out "$OUT" $device $memory
