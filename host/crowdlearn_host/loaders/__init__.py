"""Loaders: files as people have them, made into the folder of samples that a run reads."""
