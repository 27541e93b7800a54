#!/usr/bin/env bash
# Sem2NeRF's published training on CatMask.
# From the project's root: sbatch scripts/auto_bash/sem2nerf_catmask.sh [more options of sem2nerf/train.py]
#SBATCH --job-name=sem2nerf_catmask
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
train sem2nerf/train.py -c configs/sem2nerf/catmask.yml "$@"
