"""Sem2NeRF (Chen et al., ECCV 2022): one label map to the radiance field of that face, through a frozen pi-GAN."""
