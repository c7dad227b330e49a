"""Talking to a model: sessions of several turns, with pictures or with places of a cube.

    ImageChat(model, processor)     LLaVA and its kin, and language models: turns, streamed
    CubeChat(loaded)                a run that reads cubes: one question at a time about a place

Both are a `Session`; `rsvlm chat` is a loop around one. The keys and values of the turns so far are
kept, so a turn costs its own tokens and not the whole conversation again.
"""
