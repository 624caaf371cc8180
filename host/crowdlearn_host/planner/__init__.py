"""Plans: which piece owns which neurons, on which devices, at what cost."""
