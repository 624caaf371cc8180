"""Mistakes in a run that are found before anything is exported."""
