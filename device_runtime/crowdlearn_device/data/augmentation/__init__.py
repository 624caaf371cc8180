"""Random changes of a device's own samples while they are fed, drawn from a seed."""
