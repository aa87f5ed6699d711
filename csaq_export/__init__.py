"""Hugging Face causal LM → GGUF: calibrate, budget, quantize, write (torch)."""
