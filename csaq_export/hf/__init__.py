"""CSAQ for models in memory: a transformers model → packed rows in it, its folder, its generation.

What csaq-quant 0.5.1 publishes, by the same names. Everything is reached from `csaq_export` itself
(`from csaq_export import quantize, CSAQConfig`), which loads these modules when they are asked for.
"""
