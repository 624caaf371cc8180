"""Slice programs: exported, compared with float64 autograd, cached."""
