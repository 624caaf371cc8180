"""The drawing of a run's first weights by its devices."""
