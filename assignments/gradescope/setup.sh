#!/usr/bin/env bash
# Gradescope runs this once when it builds the image: Python's packages, torch without CUDA.
set -euo pipefail
apt-get update -qq
apt-get install -y -qq python3 python3-pip python3-venv
python3 -m venv /autograder/venv
cd /autograder/source/solution
torch=$(sed -n 's/^\(torch==[0-9.]*\).*/\1/p' requirements.txt)
/autograder/venv/bin/pip install --quiet "$torch" --index-url https://download.pytorch.org/whl/cpu
# Not for the tests of the exercises: triton and the formatter.
grep -vE '^(torch|triton|ruff)\b' requirements.txt > graded.txt
/autograder/venv/bin/pip install --quiet -r graded.txt
