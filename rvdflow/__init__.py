"""Residual video diffusion: train on flow.zarr, forecast ensembles."""
