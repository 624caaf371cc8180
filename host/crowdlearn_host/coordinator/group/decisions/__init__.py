"""The decisions of a group: what it does next, and which devices hold which pieces."""
