#!/usr/bin/env bash
# The published training of Geo-PIFu on its V-net, log/coarse.
# From the project's root: sbatch scripts/auto_bash/geopifu_query.sh [more options of geopifu/train.py]
# DATA=/somewhere: the folder of DeepHumanDataset, LSUN and humanRender; data if not given
# LATENTS=/somewhere: latent voxels of geopifu_latents.sh; made by the V-net if not given
#SBATCH --job-name=geopifu_query
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=6
#SBATCH --cpus-per-task=48
#SBATCH --time=48:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
#SBATCH --output=%x_%j.log
source scripts/auto_bash/slurm.sh
train geopifu/train.py -c configs/geopifu/query.yml --datasetDir "${DATA:-data}/humanRender" --meshDirSearch "${DATA:-data}" ${LATENTS:+--deepVoxelsDir "$LATENTS"} "$@"
