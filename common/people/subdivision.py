"""Catmull-Clark subdivision of quads as a matrix: the topology never changes, so a finer head is one sparse product.

Vertices of the finer mesh: first the old ones, then one per edge, then one per quad. Quad (a, b, c, d) becomes
(a, ab, q, da), (b, bc, q, ab), (c, cd, q, bc), (d, da, q, cd), so child k of quad f is number 4 f + k and starts at f's corner k.
"""
from __future__ import annotations

import numpy as np


def catmull_clark(quads: np.ndarray, count: int):
    """(matrix, finer): scipy sparse (V', V) that takes `count` vertices to the finer mesh's, and its quads (4 F, 4). Open borders stay borders."""
    import scipy.sparse as sp

    corners = quads.reshape(-1)
    half_edges = np.sort(np.stack([corners, np.roll(quads, -1, axis=1).reshape(-1)], axis=1), axis=1)
    edges, edge_of = np.unique(half_edges, axis=0, return_inverse=True)
    edge_of = edge_of.reshape(quads.shape)
    owner = np.repeat(np.arange(len(quads)), 4)

    matrix = lambda rows, columns, shape, values=1.0: sp.csr_matrix((np.broadcast_to(values, rows.shape), (rows, columns)), shape=shape)
    face_points = matrix(owner, corners, (len(quads), count), 0.25)
    edge_middles = matrix(np.repeat(np.arange(len(edges)), 2), edges.reshape(-1), (len(edges), count), 0.5)
    edge_faces = matrix(edge_of.reshape(-1), owner, (len(edges), len(quads)))
    faces_at_edge = np.asarray(edge_faces.sum(1)).reshape(-1)
    inner = sp.diags((faces_at_edge == 2).astype(float))
    border = sp.diags((faces_at_edge != 2).astype(float))
    edge_points = border @ edge_middles + 0.5 * inner @ (edge_middles + 0.5 * edge_faces @ face_points)

    vertex_edges = matrix(edges.T.reshape(-1), np.tile(np.arange(len(edges)), 2), (count, len(edges)))
    vertex_faces = matrix(corners, owner, (count, len(quads)))
    valence = np.maximum(np.asarray(vertex_faces.sum(1)).reshape(-1), 1)
    vertex_border = vertex_edges @ border
    on_border = np.asarray(vertex_border.sum(1)).reshape(-1) > 0
    smooth = sp.diags(1 / valence**2) @ (vertex_faces @ face_points + 2 * vertex_edges @ edge_middles) + sp.diags((valence - 3) / valence)
    crease = 0.5 * sp.identity(count) + 0.25 * vertex_border @ edge_middles
    unused = np.asarray(vertex_edges.sum(1)).reshape(-1) == 0
    old_points = sp.diags((~on_border & ~unused).astype(float)) @ smooth + sp.diags(on_border.astype(float)) @ crease + sp.diags(unused.astype(float))

    edge_ids, face_ids = count + edge_of, count + len(edges) + np.arange(len(quads))[:, None]
    finer = np.stack([quads, edge_ids, np.broadcast_to(face_ids, quads.shape), np.roll(edge_ids, 1, axis=1)], axis=2)
    return sp.vstack([old_points, edge_points, face_points]).tocsr(), finer.reshape(-1, 4)


def subdivide_corners(values: np.ndarray) -> np.ndarray:
    """What each quad holds at its corners (F, 4, C), such as texture coordinates, at the corners of the finer quads (4 F, 4, C), bilinearly."""
    middles = 0.5 * (values + np.roll(values, -1, axis=1))
    center = np.broadcast_to(values.mean(1, keepdims=True), values.shape)
    return np.stack([values, middles, center, np.roll(middles, 1, axis=1)], axis=2).reshape(-1, 4, values.shape[-1])
