"""Lattice-Boltzmann simulation of two-dimensional flow, written to documented Zarr datasets."""
