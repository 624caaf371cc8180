"""Losses: each one object, in the program, in simulations and in evaluation."""
