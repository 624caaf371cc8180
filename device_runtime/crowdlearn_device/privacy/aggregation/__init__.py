"""Secure aggregation: the host learns the sum of what devices share, and nothing of any one of them.

The protocol is SecAgg+ (Bell, Bonawitz, Gascon, Lepoint, Raykova, "Secure single-server aggregation with
(poly)logarithmic overhead", CCS 2020), over stretches: each holder masks the part of the vector that it owns.
"""
