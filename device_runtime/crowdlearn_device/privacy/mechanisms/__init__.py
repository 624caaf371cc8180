"""The chain that everything leaves a device by: mechanisms that change or withhold it, and listeners."""
