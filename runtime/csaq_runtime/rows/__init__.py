"""The rows layout: matrices whose rows have different types, sparse and low-rank corrections.

names      which tensors of a file belong to a matrix
tiers      its rows, by type       outliers   single weights      lowrank   a factor
weight     all of it, read and checked
linear     packed for the kernels of `kernels/mixed.py`
"""
