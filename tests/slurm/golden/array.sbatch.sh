#!/bin/bash

# Parameters
#SBATCH --account=vision
#SBATCH --array=0-2%3
#SBATCH --chdir=/cluster/ann
#SBATCH --comment='it'"'"'s a $(test) of `quotes` & "more"; # 1'
#SBATCH --constraint='a100&ib'
#SBATCH --contiguous
#SBATCH --cpus-per-task=96
#SBATCH --dependency=afterok:1:2
#SBATCH --exclude='n[1,3]'
#SBATCH --exclusive
#SBATCH --gpus-per-node=8
#SBATCH --job-name=imagenet
#SBATCH --mail-user=ann@example.org
#SBATCH --mem=480G
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/cluster/ann/runs/.submitit/imagenet/1/%A_%a_0_log.out
#SBATCH --partition=gpu
#SBATCH --qos=normal
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=1440

# setup
module purge
module load cuda/12.4
source venv/bin/activate

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /cluster/ann/runs/.submitit/imagenet/1/%A_%a_%t_log.out --kill-on-bad-exit=0 --wait=0 --export=ALL --nodes=4 --ntasks=4 --cpus-per-task=96 --mem=0 --container-image=distlth.sqsh '--container-mounts=/data dir:/data' python -P -u -m submitit.core._submit /cluster/ann/runs/.submitit/imagenet/1 || code=$?


# teardown
# A task without scontrol, as in a container, asks for this job to be queued again.
if [ "${code:=0}" = 250 ]; then
    code=75
    until state=$(squeue -h -j "$SLURM_JOB_ID" -o %T); do sleep 5; done
    [ "$state" != RUNNING ] || scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
