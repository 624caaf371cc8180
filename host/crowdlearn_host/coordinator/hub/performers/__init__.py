"""Performers of effects: of groups, and of what all groups of a run do together."""
