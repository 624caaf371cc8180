"""Configuration files, files that survive crashes, and the home folder."""
