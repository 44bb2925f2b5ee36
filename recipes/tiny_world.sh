#!/usr/bin/env bash
# A recipe for real models in the tiny world instead: the same script with data/tiny_base, problems and traces of data/tiny.py,
# and what so small a model needs otherwise: a larger learning rate, fewer rows a step, shorter texts. Offline, on a CPU.
#   bash recipes/tiny_world.sh s1                    s1, limo, unireason_sft, unireason_rl, gsm8k or countdown; minutes
#   SEED=1 LR=1e-3 bash recipes/tiny_world.sh s1     a variable that is set already is left as it is
# What is not named here is as in the recipe: for LIMO, say, 800 traces, 15 epochs, 64 rows a step. Learning rates are tiny.sh's,
# and less where a rollout has four updates; s1, limo, unireason_rl and countdown were tried once on data/tiny.py's dev split.
# What came out on held-out problems is in the head of each recipe.
set -euo pipefail
source "$(dirname "$0")/env.sh"
default() { for pair in "$@"; do name=${pair%%=*}; [ -n "${!name:-}" ] || export "$pair"; done; }   # where nothing is set
recipe=${1:-}
default SEED=0
default OUT="out/tiny_world/$recipe/seed$SEED" MODEL=data/tiny_base DEVICE=cpu FORMAT=think NAME=rows TEST_NAME=rows
default OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 MPLBACKEND=Agg
world=$OUT/world; more=                      # flags of data/tiny.py
case $recipe in
  s1)                                        # 400 of 4,000 traces by s1's rules; 300 steps of 16 rows
    default SOURCE="$world/pool.jsonl" METHOD=s1 K=400 EPOCHS=12 LR=2e-3 TEST="$world/math.jsonl" TEMPERATURE=0.7 \
      MAX_TOKENS=448 BUDGETS="0 40 80" WAITS="1 4" WAIT=wait SLOTS=256 ;;
  limo)                                      # 800 of the same 4,000 by LIMO's score
    default SOURCE="$world/pool.jsonl" METHOD=limo CHOOSE="--words extended --length-cap 120" LR=2e-3 \
      TEST="$world/math.jsonl" MAX_TOKENS=320 ;;
  unireason_sft)                             # the teacher's right answers; measured in all three groups of tasks
    default TRACES="$world/pool.jsonl" EPOCHS=3 BATCH=32 LR=2e-3 TEST="$world/held_out.jsonl" MAX_TOKENS=320 ;;
  unireason_rl)                              # the same three groups
    default PROBLEMS="$world/train.jsonl" STEPS=100 PROMPTS=16 GROUP=8 LR=2e-4 TEST="$world/held_out.jsonl" MAX_TOKENS=128 ;;
  gsm8k)                                     # all three tasks of the group math, verified by program
    default TRAIN="$world/train.jsonl" STEPS=100 PROMPTS=16 LR=5e-4 TEST="$world/math.jsonl" TEMPERATURE=0.7 MAX_TOKENS=128 ;;
  countdown)                                 # `make 20 from 7 5 8` alone; the base model has read how one searches
    more="--n-train 6000 --n-held-out 900"
    default SOURCE="$world/cd.jsonl" HELD_OUT=300 STEPS=100 PROMPTS=32 LR=5e-4 MAX_TOKENS=128 ;;
  *) echo "tiny_world.sh: which recipe? s1, limo, unireason_sft, unireason_rl, gsm8k or countdown" >&2; exit 2 ;;
esac
python -m data.tiny --out "$world" --seed "$SEED" $more
grep '"group": "math"' "$world/held_out.jsonl" > "$world/math.jsonl"
cat "$world/math.jsonl" "$world/train.jsonl" | grep '"task": "cd"' > "$world/cd.jsonl"      # the held-out ones first
bash "recipes/$recipe.sh"
echo "$recipe in the tiny world, seed $SEED: $SECONDS seconds"
