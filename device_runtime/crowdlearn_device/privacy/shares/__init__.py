"""Slices on shares: linear maps computed by three helpers that learn nothing of what they multiply.

A value leaves the dominator as three ring elements that add up to it, x = x0 + x1 + x2 modulo 2^32. Role r of
a triple of helpers holds x_r and x_(r+1), which are uniformly random. Products with weights and, for
gradients, of activations with errors come out as shares, too.

Source: replicated secret sharing (Araki et al. 2016), with activations and errors as its secrets.
"""
