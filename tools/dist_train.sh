#!/usr/bin/env bash
# On one machine:  tools/dist_train.sh CONFIG GPUS [ARGUMENTS of tools/train.py]
# On several, on each of them: also set NNODES, MASTER_ADDR (one of them) and PORT.
# When a process is lost all are started again and go on from the newest checkpoint,
# MAX_RESTARTS times (3). To go on after that, or with another job: --resume.
set -euo pipefail
USAGE='usage: tools/dist_train.sh CONFIG GPUS [ARGUMENTS of tools/train.py]'
CONFIG=${1:?$USAGE} GPUS=${2:?$USAGE}
export PACL_COMMAND=${PACL_COMMAND:-$(printf '%q ' "$0" "$@")}
# Processes that are started again would otherwise read in torchrun's store the addresses
# of those that are gone (PyTorch 2.11).
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
shift 2

if [[ ${NNODES:-1} == 1 ]]; then
    MEETING=(--standalone)
else
    MEETING=(
        --nnodes="$NNODES"
        --rdzv-backend=c10d
        --rdzv-endpoint="${MASTER_ADDR:?name one of the machines}:${PORT:-29500}"
        --rdzv-id="$MASTER_ADDR:${PORT:-29500}"
    )
fi
# torchrun, without the traceback of its own that hides what the processes have said.
RUN='import sys; from torch.distributed.run import main; sys.tracebacklimit = 0; main()'
exec python -c "$RUN" "${MEETING[@]}" \
    --nproc-per-node="$GPUS" \
    --max-restarts="${MAX_RESTARTS:-3}" \
    "$(dirname "$0")/train.py" "$CONFIG" --launcher pytorch "$@"
