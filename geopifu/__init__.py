"""Geo-PIFu: one photo of a person and its mask to a closed clothed-body mesh."""
