"""Verification of ensemble forecasts of fields, the way weather forecasts are verified."""
