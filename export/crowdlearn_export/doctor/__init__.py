"""Diagnosis of a model before anything is exported."""
