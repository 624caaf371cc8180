"""Solvers of the planning problem, with bounds."""
