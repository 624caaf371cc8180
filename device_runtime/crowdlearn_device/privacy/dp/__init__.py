"""Noise and the draws of samples that keep what leaves a device within an epsilon."""
