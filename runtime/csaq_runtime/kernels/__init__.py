"""Machine code for the products with weights: generated per type, cached on disk.

Read in this order: `activation` (how tokens are packed), `tile` (one block
times a few tokens), the `*_tiles` modules (one emitter per weight type),
`module` (tiles → matmul), `compile` (→ machine code), `dispatch` (type → addresses).
"""
