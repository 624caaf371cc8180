"""The ways in which devices hold frozen weights, each an object."""
