#!/usr/bin/env bash
# UniReason's controlled study (arXiv 2507.00432, §2.2): fine-tuning on a teacher's right answers against GRPO on the same
# prompts, from the same base. What do both win in maths, what do they lose elsewhere, and what changed inside?
#   bash recipes/unireason.sh --seeds 3       tiny world, CPU, offline; ends in out/unireason/report.html
#   MODEL=Qwen/Qwen3-14B-Base TRACES=traces.jsonl TEST=test.jsonl LAUNCH="torchrun --nproc-per-node 8 --" \
#     bash recipes/unireason.sh               the paper's settings; rows as in data/rows.py:
#   TRACES  a teacher's completions with `question`, `answer`, `thinking`, `response` (the paper: 47K problems from DeepScaleR
#           and SimpleRL, Qwen3-32B; TEACHER=Qwen/Qwen3-32B PROMPTS=problems.jsonl makes them)
#   TEST    problems whose `group` is math, other or plain and whose `task` is a benchmark
# recipes/tiny.sh shows the same with curated traces, beside everything else. Interrupted, the same command continues.
set -euo pipefail
source "$(dirname "$0")/env.sh"
seeds=1
if [ "${1:-}" = --seeds ] && [ "${2:-0}" -ge 1 ] 2>/dev/null; then seeds=$2
elif [ $# -gt 0 ]; then echo "unireason.sh: unknown arguments: $* (only --seeds N)" >&2; exit 2; fi
OUT=${OUT:-out/unireason}; RUN=${LAUNCH:-python}
if [ -z "${MODEL:-}" ]; then                 # the tiny world
  export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 OMP_NUM_THREADS=1 MPLBACKEND=Agg
  MODEL=data/tiny_base
  DEVICE=cpu; GENERATE="--temperature 0.7 --max-tokens 320"
  SFT="--epochs 3 --batch-rows 32 --lr 2e-3 --print-every 25"
  RL="--steps 100 --prompts-per-step 16 --group-size 8 --max-tokens 128 --lr 5e-4"
  ANALYZE=
else                                         # §A.3.1-2; SFT: 1.5 epochs of 47K problems are about 138 steps, here 2 epochs
  : "${TEST:?TEST=problems.jsonl is needed with MODEL}"
  DEVICE=${DEVICE:-cuda}
  GENERATE=${GENERATE:---temperature 0.6 --top-p 0.95 --max-tokens 32768 --dtype bf16}
  SFT=${SFT:---epochs 2 --batch-rows 512 --lr 5e-5 --warmup 0.1 --max-length 16384 --dtype bf16}
  RL=${RL:---steps 140 --prompts-per-step 512 --group-size 16 --minibatches 4 --max-tokens 16384 --lr 1e-6 --eps-low 0.22 --eps-high 0.28}
  ANALYZE=${ANALYZE:---stream --dtype bf16}
  if [ -n "${TEACHER:-}" ] && [ -z "${TRACES:-}" ]; then
    TRACES=$OUT/teacher.jsonl
    $RUN generate.py --model "$TEACHER" --data "${PROMPTS:?PROMPTS=problems.jsonl is needed with TEACHER}" --out "$TRACES" \
      --format think --device "$DEVICE" $GENERATE
  fi
fi

answer() {                                   # answer MODEL RUN: completions of the three groups of tasks
  $RUN generate.py --model "$1" --data "$test" --out "$dir/runs/$2.jsonl" --format think --seed "$seed" --device "$DEVICE" $GENERATE
}
tuned=(); data=(); runs=()
for ((seed = 0; seed < seeds; seed++)); do
  dir=$OUT/seed$seed; traces=${TRACES:-$dir/data/pool.jsonl}; test=${TEST:-$dir/data/held_out.jsonl}
  mkdir -p "$dir/runs"
  echo "== seed $seed"
  [ -n "${TRACES:-}" ] || python -m data.tiny --out "$dir/data" --seed "$seed"
  # Rejection sampling: the teacher's right answers; the questions of these rows are the prompts of both trainings.
  python curate.py --data "$traces" --against "$test" --method full --keep-correct --out "$dir/traces.jsonl"
  $RUN sft.py --model "$MODEL" --data "$dir/traces.jsonl" --out "$dir/sft" --format think --seed "$seed" --device "$DEVICE" $SFT
  $RUN grpo.py --model "$MODEL" --data "$dir/traces.jsonl" --out "$dir/rl" --format think --seed "$seed" --device "$DEVICE" $RL
  answer "$MODEL" base
  answer "$dir/sft" sft
  answer "$dir/rl" rl
  tuned+=("$dir/sft" "$dir/rl"); data+=("$dir/runs/sft.jsonl" "$dir/runs/rl.jsonl"); runs+=("$dir/runs")
done

echo "== results"
for place in "${runs[@]}"; do
  python evaluate.py "$place/sft.jsonl" "$place/rl.jsonl" --base "$place/base.jsonl" --ti v2
done
python analyze.py --base "$MODEL" --tuned "${tuned[@]}" --data "${data[@]}" --runs "${runs[@]}" \
  --claims recipes/unireason_claims.json --device "$DEVICE" --out "$OUT" $ANALYZE
