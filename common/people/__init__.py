"""Licence-free people: persons as functions of a seed, their scenes, pictures and data sets."""
