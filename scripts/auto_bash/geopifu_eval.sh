#!/usr/bin/env bash
# The four published metrics of the meshes of geopifu_reconstruct.sh, in 28 jobs; the last to end writes the means.
# From the project's root: sbatch scripts/auto_bash/geopifu_eval.sh [more options of geopifu/eval.py]
# DATA=/somewhere: the folder of DeepHumanDataset, LSUN and humanRender; data if not given
#SBATCH --job-name=geopifu_eval
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=1
#SBATCH --array=0-27
#SBATCH --time=6:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x_%A_%a.log
source scripts/auto_bash/slurm.sh
share 28 geopifu/eval.py --resultsDir results/geopifu --datasetDir "${DATA:-data}/humanRender" --meshDirSearch "${DATA:-data}" "$@"
