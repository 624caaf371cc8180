"""Sharing between groups, alike on phones and in simulation."""
