#!/usr/bin/env bash
# The published multi-view training: 666 heads, 31 views each, 128 px.
# From the project's root: sbatch scripts/auto_bash/sof_face_seg_real.sh [more options of sof/train.py]
#SBATCH --job-name=sof_face_seg_real
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
#SBATCH --output=%x_%j.log
source scripts/auto_bash/slurm.sh
train sof/train.py --config_filepath=configs/sof/face_seg_real.yml "$@"
