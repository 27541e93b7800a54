#!/usr/bin/env bash
# The published export of every frame's latent voxels, 170 GB, in 4 jobs; training and reconstruction make them as they go without it.
# From the project's root: sbatch scripts/auto_bash/geopifu_latents.sh [more options of geopifu/export_latents.py]
# DATA=/somewhere: the folder of DeepHumanDataset, LSUN and humanRender; data if not given
#SBATCH --job-name=geopifu_latents
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --array=0-3
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x_%A_%a.log
source scripts/auto_bash/slurm.sh
share 4 geopifu/export_latents.py --load_netV_checkpoint_path log/coarse --datasetDir "${DATA:-data}/humanRender" --resultsDir "${DATA:-data}/humanRender/latents" "$@"
