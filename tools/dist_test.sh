#!/usr/bin/env bash
# On one machine:  tools/dist_test.sh CONFIG CHECKPOINT GPUS [ARGUMENTS of tools/test.py]
# On several: also set NNODES, NODE_RANK, MASTER_ADDR and PORT on each of them.
set -euo pipefail
CONFIG=$1 CHECKPOINT=$2 GPUS=$3
shift 3

python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$GPUS" \
    "$(dirname "$0")/test.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch "$@"
