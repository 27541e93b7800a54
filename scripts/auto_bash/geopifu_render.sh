#!/usr/bin/env bash
# The published rendering of 6795 scans before 4 backgrounds from 4 sides, in 30 jobs.
# From the project's root: sbatch scripts/auto_bash/geopifu_render.sh [more options of geopifu/render_data.py]
# DATA=/somewhere: the folder of DeepHumanDataset, LSUN and humanRender; data if not given; with --useConfig the release's own settings
#SBATCH --job-name=geopifu_render
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=1
#SBATCH --array=0-29
#SBATCH --time=48:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x_%A_%a.log
source scripts/auto_bash/slurm.sh
share 30 geopifu/render_data.py --meshDirSearch "${DATA:-data}" --bgDirSearch "${DATA:-data}" --saveDir "${DATA:-data}/humanRender" "$@"
