"""Programs in a process of their own, which is held to computing: one that is malicious, or damaged, costs a
run and not the device.
"""
