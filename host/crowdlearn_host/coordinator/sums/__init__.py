"""Secure sums of what all groups of a run share: which groups, which weights, one attempt after another."""
