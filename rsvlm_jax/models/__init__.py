"""Models, one file each; each tower is usable alone.

    spectral/   bands of any sensor -> three-channel frames -> encoder images
    clip_vit    CLIP's vision tower
    pixel       one token a date for band sets without frames
    temporal    dates, masked compression to a token budget
    connector   encoder width -> language width; token_count
    llama       the decoder, with its KV cache
    heads/      regression heads and predictive distributions
    encoded     Encoded: what the model hands to heads and losses
    vlm         VisionLanguageModel: the composition

Nothing is imported here: take what is needed from its file.
"""
