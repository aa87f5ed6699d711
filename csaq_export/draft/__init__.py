"""`csaq draft`: a small head that guesses what its model says next, and learns from it.

passages     text → what the model makes of it: states, last keys and values
vocabulary   which tokens the head may propose
head         the network
distill      passages → trained head
write        head → sidecar GGUF
make         all of it
"""
