"""OP3D: OrthoPlanes (He et al., ICCV 2023), an EG3D with K planes per axis: a random code and a camera, or a body pose, to pictures and shapes."""
