"""Optimizers: each one definition, in programs, on the device's arrays and in simulations."""
