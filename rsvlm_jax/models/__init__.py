"""Models, one file each; each tower is usable alone.

    spectral/   bands of any sensor -> three-channel frames -> encoder images
    towers      the vision tower of any config: clip_vit, siglip, dinov2, convnext, or two of them
                mixed; features: hidden states of chosen layers, joined
    resampler/  fewer tokens a frame: pixel shuffle, Q-Former, multi-level perceiver
    frames      what is known about the tokens of frames: validity, date, platform, group
    pixel       one token a date for band sets without frames
    galileo, presto  pretrained encoders of series; embed: what they make of observations
                (monthly, quantities: steps of time and units; *_inputs: groups, normalisation)
    temporal    dates, masked compression to a token budget
    connector   encoder width -> language width; token_count
    language    the decoder of any config: llama (Mistral, Qwen2, Qwen3), gpt2
    decoder     Decoder: what all of them offer, with the KV cache; the block that they share
    heads/      regression heads and predictive distributions
    encoded     Encoded: what the model hands to heads and losses
    vlm         VisionLanguageModel: the composition

Nothing is imported here: take what is needed from its file.
"""
