"""The network as layers of neurons joined by linear maps."""
