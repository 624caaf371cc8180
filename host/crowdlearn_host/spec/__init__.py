"""Descriptions of runs, read from TOML files."""
