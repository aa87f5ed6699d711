"""SERQ (arXiv 2603.08185): inputs made flat, salient columns given one factor.

peaks    how large each input of every linear layer becomes
fold     scales and orders moved into the weights before and behind
recipe   rounding around the salient columns, the factor, the files
"""
