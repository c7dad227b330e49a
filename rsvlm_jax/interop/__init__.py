"""Weights of other projects into parameters of ours, as tables of names and layouts.

llama2c   A. Karpathy's llama2.c checkpoints (the shipped 260k-parameter model)
peft      LoRA adapters of the PEFT library
"""
