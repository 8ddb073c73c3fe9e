#!/usr/bin/env bash
# On one machine:  tools/dist_train.sh CONFIG GPUS [ARGUMENTS of tools/train.py]
# On several: also set NNODES, NODE_RANK, MASTER_ADDR and PORT on each of them.
set -euo pipefail
USAGE='usage: tools/dist_train.sh CONFIG GPUS [ARGUMENTS of tools/train.py]'
CONFIG=${1:?$USAGE} GPUS=${2:?$USAGE}
shift 2

python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$GPUS" \
    "$(dirname "$0")/train.py" "$CONFIG" --launcher pytorch "$@"
