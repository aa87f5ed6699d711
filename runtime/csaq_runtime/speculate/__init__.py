"""Speculative decoding: a drafter guesses tokens, one batched step of the model checks them.

`drafter.py` says what a drafter is, `verify.py` which guesses stand, `decoder.py` makes replies of
both. What comes out is what plain decoding gives: the same tokens when greedy, the same
distribution when sampled.
"""
