"""Lowering: a joint forward and backward graph in operators that are correct and fast on a phone."""
