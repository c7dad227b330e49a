"""The letters of this house. jaxtyping strings on public signatures use them and nothing else.

    B   batch                     P   patches (tokens) of one frame
    T   dates                     S   tokens of all band sets, dates, groups, patches in a row
    C   spectral bands            N   visual tokens given to the language model
    H W pixels                    L   text positions
    G   spectral groups           D   width of the language model
    K   targets                   Dv  width of the vision encoder
    Q   `<reg>` tokens            V   vocabulary

C is always spectral bands, D always model width. Layers that do not care where their tokens come
from call their axes B, S, D.
"""

from jaxtyping import Array, Bool, Float, Int, Int8, Shaped, UInt8

__all__ = ["Array", "Bool", "Float", "Int", "Int8", "Shaped", "UInt8"]
