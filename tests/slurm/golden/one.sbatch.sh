#!/bin/bash

# Parameters
#SBATCH --chdir=/cluster/ann
#SBATCH --cpus-per-task=96
#SBATCH --gpus-per-node=8
#SBATCH --job-name=imagenet
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/cluster/ann/runs/.submitit/imagenet/1/%j_0_log.out
#SBATCH --requeue
#SBATCH --signal=USR2@120

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /cluster/ann/runs/.submitit/imagenet/1/%j_%t_log.out --kill-on-bad-exit=0 --wait=0 --export=ALL --nodes=1 --ntasks=1 --cpus-per-task=96 --mem=0 python -P -u -m submitit.core._submit /cluster/ann/runs/.submitit/imagenet/1 || code=$?


# teardown
# A task without scontrol, as in a container, asks for this job to be queued again.
if [ "${code:=0}" = 250 ]; then
    code=75
    until state=$(squeue -h -j "$SLURM_JOB_ID" -o %T); do sleep 5; done
    [ "$state" != RUNNING ] || scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
