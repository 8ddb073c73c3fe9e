#!/usr/bin/env bash
# All that docs/pretraining.md says of GPUs, measured in at most nine minutes:
#     benchmarks/on_gpu.sh gpu.json
# On a machine without network, WHEELS=FOLDER installs from wheels that were carried
# there, made elsewhere by `pip wheel '.[tests]' -w FOLDER`. DEVICE=cpu tries it out.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -n "${WHEELS:-}" ]; then
    timeout 180 python -m pip install --quiet --no-index --find-links "$WHEELS" \
        'pacl-mmseg[tests]' || echo 'The installation from WHEELS failed.' >&2
fi
exec env PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" python benchmarks/on_gpu.py \
    --device "${DEVICE:-cuda}" --seconds $((535 - SECONDS)) "$@"
