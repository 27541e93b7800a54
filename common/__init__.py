"""What five methods share: fields to pictures, label maps, depth, meshes and videos; data, runs, checkpoints and measures.

Shapes, everywhere:  B scenes  N cameras  R rays  S samples on a ray  P points  C channels or classes  K planes  H W pixels (rows, columns).
Cameras are OpenCV (x right, y down, z forward), ``cam2world`` 4x4, intrinsics 3x3 in picture sizes; see ``common.cameras``.
``depths`` are distances along unit directions; camera z is called ``z_depth``.
"""
