#!/usr/bin/env bash
# Installs if needed, then runs the linter, the golden numbers of the original implementations and all tests.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
"$python" -m ruff check .
"$python" -m tests.golden
exec "$python" -m pytest "$@"
