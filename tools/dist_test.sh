#!/usr/bin/env bash
# On one machine:  tools/dist_test.sh CONFIG [CHECKPOINT] GPUS [ARGUMENTS of test.py]
# On several: also set NNODES, NODE_RANK, MASTER_ADDR and PORT on each of them.
set -euo pipefail
USAGE='usage: tools/dist_test.sh CONFIG [CHECKPOINT] GPUS [ARGUMENTS of test.py]'
TEST=("${1:?$USAGE}")
shift
if [[ ! ${1:?$USAGE} =~ ^[0-9]+$ ]]; then # methods without training have no checkpoint
    TEST+=("$1")
    shift
fi
GPUS=${1:?$USAGE}
shift

python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$GPUS" \
    "$(dirname "$0")/test.py" "${TEST[@]}" --launcher pytorch "$@"
