"""Profile, battery, radio link, log and files of a virtual phone."""
