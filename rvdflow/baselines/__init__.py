"""Forecasters that stand beside residual video diffusion under the same verification."""
