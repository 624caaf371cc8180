"""The device runtime brought to a phone: as a program of the shell, or as an app."""
