"""GGUF → tokens on a CPU, in NumPy and Numba; never imports torch or transformers."""
