"""Updates: the weights that a device shares with other groups (SliceNet)."""
