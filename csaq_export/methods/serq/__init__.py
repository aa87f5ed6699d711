"""SERQ (arXiv 2603.08185): inputs made flat, salient columns given one factor.

peaks         how large each input of every linear layer becomes
fold          scales and orders moved into the weights before and behind
rounding      a matrix rounded around its salient columns, and their factor
recipe        the files
activations   the same model in torch with activations of few bits
"""
