"""CSAQ: cliques of rows with 2 … 16 bits inside every matrix, in exact bytes.

options    what is asked for, bits → ggml types
costs      what every row costs at every width, in expected divergence
cliques    rows that fire together, salience and protection
plan       bits per clique → tiers → the file's exact size
convert    the whole story
"""
