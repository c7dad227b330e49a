"""Weights of other projects into parameters of ours, and back, as tables of names and layouts.

rows, transforms  a table laid over a checkpoint and a model; streamed reading and writing
family, families  what a class of checkpoints looks like: config, names, spellings
files, huggingface  directories of safetensors with config.json
llava_original, openclip, peft, llama2c  other layouts
"""
