"""Speculative decoding of a model in torch, by the rules of `csaq_runtime.speculate`.

lookup       drafts by what followed before
context      the model with its KV cache: tokens in, logits out, roll back
rows         drafts by the model itself with its protected rows at low bits
report       what it brought
engine       the loop
"""
