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
srun --unbuffered --output /cluster/ann/runs/.submitit/imagenet/1/%j_%t_log.out --kill-on-bad-exit=0 --wait=0 --cpus-per-task=96 python -u -m submitit.core._submit /cluster/ann/runs/.submitit/imagenet/1
