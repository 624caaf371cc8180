"""Differential privacy of training: gradients clipped sample by sample, noise, and its account."""
