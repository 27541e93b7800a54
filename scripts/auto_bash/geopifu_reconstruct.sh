#!/usr/bin/env bash
# The published test: meshes of 21744 frames, in 7 jobs.
# From the project's root: sbatch scripts/auto_bash/geopifu_reconstruct.sh [more options of geopifu/reconstruct.py]
# DATA=/somewhere: the folder of DeepHumanDataset, LSUN and humanRender; data if not given
#SBATCH --job-name=geopifu_reconstruct
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --array=0-6
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x_%A_%a.log
source scripts/auto_bash/slurm.sh
share 7 geopifu/reconstruct.py --checkpoint log/query --datasetDir "${DATA:-data}/humanRender" --resultsDir results/geopifu "$@"
