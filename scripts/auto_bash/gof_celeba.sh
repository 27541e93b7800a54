#!/usr/bin/env bash
# GOF's published training on celeba.
# From the project's root: sbatch scripts/auto_bash/gof_celeba.sh [more options of gof/train.py]
#SBATCH --job-name=gof_celeba
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=16
#SBATCH --time=48:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
#SBATCH --output=%x_%j.log
source scripts/auto_bash/slurm.sh
train gof/train.py -c configs/gof/celeba.yml "$@"
