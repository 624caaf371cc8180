"""Ways by which a run reaches a device."""
