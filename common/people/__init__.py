"""People without a licence to ask for: heads drawn from a seed, with part labels, cameras, pictures, depth and normals."""
