#!/usr/bin/env bash
# The test command: `bash tests/run.sh`, with pytest's own arguments behind it if wanted (-k packing, -x, ...).
set -euo pipefail
source "$(dirname "$0")/../recipes/env.sh"
# The report is tested in a browser: Debian's, where root may install it; elsewhere those tests are skipped and say why.
if ! { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null && [ "$(id -u)" = 0 ] &&
    command -v apt-get >/dev/null; then
  echo "installing Debian's chromium for the report's tests (once, half a minute)"
  apt="timeout 180 env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::http::Timeout=10 -o Acquire::Retries=0"
  { $apt update && $apt install -y --no-install-recommends chromium; } >/dev/null 2>&1 || echo "it could not be installed"
fi
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 OMP_NUM_THREADS=1
exec python -m pytest -q -rs -p no:cacheprovider tests "$@"
