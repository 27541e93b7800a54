#!/usr/bin/env bash
# Makes heads, trains SOF on them, measures it on cameras it never saw and renders it: everything lands in out/quickstart.
# About six minutes on two CPU cores, after a few minutes of installation. Run again, it skips what is done.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec "$python" scripts/quickstart.py "$@"
