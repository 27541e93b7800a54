#!/usr/bin/env bash
# The published query points, 15 epochs of 5000 a frame, in 32 jobs.
# From the project's root: sbatch scripts/auto_bash/geopifu_queries.sh [more options of geopifu/prepare_queries.py]
# DATA=/somewhere: the folder of DeepHumanDataset, LSUN and humanRender; data if not given
#SBATCH --job-name=geopifu_queries
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=1
#SBATCH --array=0-31
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x_%A_%a.log
source scripts/auto_bash/slurm.sh
share 32 geopifu/prepare_queries.py --datasetDir "${DATA:-data}/humanRender" --meshDirSearch "${DATA:-data}" --sampleType occu_sigma3.5_pts5k --epoch_range 0 15 --sigma 3.5 --num_sample_inout 5000 "$@"
