#!/usr/bin/env bash
# tools/slurm_train.sh PARTITION JOB_NAME CONFIG [ARGUMENTS of tools/train.py]
# GPUS, GPUS_PER_NODE and CPUS_PER_TASK set the size of the job, SRUN_ARGS the rest; with
# GPUS_PER_NODE=0 its GPUS processes compute on CPUs.
# BATCH=1 submits it and returns; SRUN_ARGS then go to sbatch. Where a process of such a
# job fails, slurm starts all again, MAX_RESTARTS times (3), and they go on from the
# newest checkpoint.
set -euo pipefail
USAGE='usage: tools/slurm_train.sh PARTITION JOB_NAME CONFIG [ARGUMENTS of train.py]'
PARTITION=${1:?$USAGE} JOB_NAME=${2:?$USAGE} CONFIG=${3:?$USAGE}
export PACL_COMMAND=${PACL_COMMAND:-$(printf '%q ' "$0" "$@")}
shift 3
GPUS=${GPUS:-4}
GPUS_PER_NODE=${GPUS_PER_NODE:-4}

SIZE=(--partition="$PARTITION" --job-name="$JOB_NAME" --ntasks="$GPUS"
    --cpus-per-task="${CPUS_PER_TASK:-8}")
if [[ $GPUS_PER_NODE != 0 ]]; then
    SIZE+=(--gres="gpu:$GPUS_PER_NODE" --ntasks-per-node="$GPUS_PER_NODE")
fi
RUN=(--kill-on-bad-exit=1 python -u "$(dirname "$0")/train.py" "$CONFIG"
    --launcher slurm "$@")

# shellcheck disable=SC2086  (SRUN_ARGS holds several words)
if [[ ${BATCH:-0} == 0 ]]; then
    exec srun "${SIZE[@]}" ${SRUN_ARGS:-} "${RUN[@]}"
fi
# shellcheck disable=SC2086
sbatch "${SIZE[@]}" --requeue --open-mode=append ${SRUN_ARGS:-} << END
#!/usr/bin/env bash
$(printf '%q ' srun "${SIZE[@]}" "${RUN[@]}") && exit
status=\$?
if ((\${SLURM_RESTART_COUNT:-0} < ${MAX_RESTARTS:-3})); then
    # Slurm ends this script. If it ended by itself, the job might have failed: so it
    # waits for SIGKILL, as a single process.
    trap '' TERM
    scontrol requeue "\$SLURM_JOB_ID" && exec sleep 600
fi
exit \$status
END
