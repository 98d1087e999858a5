#!/bin/bash
# A training run on two nodes of eight GPUs under SLURM; change the numbers below to your cluster's.
#   sbatch tools/slurm.sh model=r50_fpn data=coco data.root=/data/coco schedule=1x run_dir=runs/r50
# Without run_dir= it is runs/slurm-<number of the job>.
# Preempted, or out of time, the job saves, leaves with status 75 and is queued again until it has finished.
#SBATCH --job-name=maskrcnn
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
set -u

head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000)) # another one for every job that shares the node
# A job that is queued again keeps its number, so that it finds its run.
named=0
for argument in "$@"; do [[ "$argument" == run_dir=* ]] && named=1; done
[ "$named" -eq 1 ] || set -- "$@" "run_dir=runs/slurm-$SLURM_JOB_ID"
# Every node starts torchrun once, which starts a process for every GPU of its node. Since SLURM 22.05 srun has to be told
# again how many cores that is given.
srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" torchrun \
    --nnodes="$SLURM_NNODES" --nproc_per_node="${SLURM_GPUS_ON_NODE:-8}" \
    --rdzv_id="$SLURM_JOB_ID" --rdzv_backend=c10d --rdzv_endpoint="$head_node:$port" \
    tools/train.py "$@" &
step=$!
stopping=0
# To every process of the step: srun, told to stop itself, kills what it has begun at once.
trap 'stopping=1; scancel --signal=TERM "$SLURM_JOB_ID.0"' TERM
wait "$step"
status=$?
while kill -0 "$step" 2>/dev/null; do # a signal ends `wait` early
    wait "$step"
    status=$?
done

# torchrun turns its workers' 75 into a status of its own, so that the signal itself tells a stop from a failure.
if [ "$status" -ne 0 ] && { [ "$stopping" -eq 1 ] || [ "$status" -eq 75 ]; }; then
    echo "stopped by the cluster; queued again, to go on from the last checkpoint"
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$status"
