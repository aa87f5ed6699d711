"""Speculative decoding of a model in torch, by the rules of `csaq_runtime.speculate`.

context      the model with its KV cache: tokens in, logits out, roll back
rows         drafts by the model itself with its protected rows at low bits
reply        one reply as it grows
report       what it brought
engine       what users call
"""
