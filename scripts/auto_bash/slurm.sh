# Sourced by the Slurm scripts beside it: `train PROGRAM OPTION ...` runs a training with torchrun, one process a GPU, on all nodes of the job, and requeues
# the job when Slurm stopped it before its end. Training goes on where it was, since the same command resumes.
#
#   Slurm --USR1--> this script --USR1--> srun --USR1--> on_node --TERM--> torchrun --TERM--> the processes that train: they end the step, save and exit 75
#
# torchrun exits 1 whatever they say, so on_node exits 75 itself if it was signalled. srun, given TERM, would kill at once: hence USR1.
PREEMPTED=75

on_node() {
    local node asked= code
    trap 'asked=yes; kill -TERM "$node" 2>/dev/null' USR1 TERM
    .venv/bin/python -m torch.distributed.run --nnodes "${SLURM_JOB_NUM_NODES:-1}" --nproc-per-node "${SLURM_GPUS_ON_NODE:-1}" \
        --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$RENDEZVOUS" "$@" &
    node=$!
    outlast "$node"; code=$?
    if [ "$code" -ne 0 ] && [ "$asked" ]; then code=$PREEMPTED; fi
    exit "$code"
}

outlast() {                                                   # the exit code of process $1; `wait` alone returns early when a signal comes
    local code
    while wait "$1"; code=$?; kill -0 "$1" 2>/dev/null; do :; done
    return "$code"
}

running() {                                                   # not so once somebody cancelled the job, which must then stay away
    [[ "$(scontrol show job "$SLURM_JOB_ID")" == *JobState=RUNNING* ]]
}

at_root() {
    [ -x .venv/bin/python ] || { echo "error: no .venv here ($PWD): submit from the project's root, after bash scripts/setup.sh" >&2; exit 2; }
}

share() {                                                     # `share COUNT PROGRAM OPTION ...`: an array job's share of a program that splits its work
    local count=$1
    at_root
    shift
    exec .venv/bin/python "$@" --splitNum "$count" --splitIdx "${SLURM_ARRAY_TASK_ID:?submit it with sbatch, or set it to 0 ... $((count - 1))}"
}

train() {
    local step asked= code
    at_root
    export RENDEZVOUS="$(hostname):$((20000 + SLURM_JOB_ID % 20000))"
    export -f on_node outlast; export PREEMPTED
    trap 'asked=yes; kill -USR1 "$step" 2>/dev/null' USR1 TERM
    srun --ntasks-per-node=1 bash -c 'on_node "$@"' on_node "$@" &
    step=$!
    outlast "$step"; code=$?
    if [ "$code" -eq "$PREEMPTED" ] || { [ "$asked" ] && [ "$code" -ne 0 ]; } && running; then
        echo "stopped before its end; requeued"
        scontrol requeue "$SLURM_JOB_ID"
        exit 0
    fi
    exit "$code"
}
