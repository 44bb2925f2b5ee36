#!/usr/bin/env bash
# The test command: `bash tests/run.sh`, with pytest's own arguments behind it (-k packing, -x, ...).
# Checks the formatting first. Ends with what was skipped for want of what, and how many tests ran.
set -euo pipefail
source "$(dirname "$0")/../recipes/env.sh"

python -m ruff format --check --quiet . ||
  { echo "not formatted; run: python -m ruff format ."; exit 1; }
python -m ruff check --quiet . ||
  { echo "to mend what can be mended, run: python -m ruff check --fix ."; exit 1; }

# The report's tests need a browser. Debian's is installed where root may do so; elsewhere they skip.
has_browser() { command -v chromium || command -v chromium-browser || command -v google-chrome; }
if ! has_browser >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing Debian's chromium for the report's tests (once, half a minute)"
  options="-qq -o Acquire::http::Timeout=10 -o Acquire::Retries=0"
  apt="timeout 180 env DEBIAN_FRONTEND=noninteractive apt-get $options"
  { $apt update && $apt install -y --no-install-recommends chromium; } >/dev/null 2>&1 ||
    echo "it could not be installed"
fi

export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 OMP_NUM_THREADS=1
exec python -m pytest -q -rs -p no:cacheprovider tests "$@"
