"""From token ids to text while they come: no half characters, no stop strings.

    ids      ▁He  llo  <0xE2> <0x82> <0xAC>  ▁#  #  #       stop: "###"
    text     He   llo    .      .      €     .  .  ends     "He" "llo" "" "" "€" "" "" ""

What a token adds may depend on those before it (a space at the start of a text, bytes of one
character), so a few ids before it are decoded along with it, never the whole text. Tokens are taken
one by one: how they are cut into chunks changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]

HALF = "\ufffd"
"""What decoders write for bytes that are no character (yet)."""


class TextStream:
    """The text of one sample.

    Attributes:
      stopped: a stop string came; nothing more will.
      tokens: ids taken, that which completed a stop string included.
    """

    def __init__(self, decode: Decode, stop: tuple[str, ...] = ()) -> None:
        """
        Args:
          decode: ids to text; what it leaves out (special tokens) is in no text.
          stop: strings of which each ends the text and is not part of it.
        """
        self.stopped = False
        self.tokens = 0
        self._decode = decode
        self._stop = stop
        self._ids: list[int] = []  # the last that gave text, and those since
        self._read = 0  # how many of them have given theirs
        self._held = ""  # what may be the beginning of a stop string

    def feed(self, ids: Sequence[int]) -> str:
        """What is certain of the text after these ids, and was not before."""
        said = []
        for token in ids:
            if self.stopped:
                break
            said.append(self._one(int(token)))
        return "".join(said)

    def finish(self) -> str:
        """What was held back, now that nothing more comes."""
        if self.stopped:
            return ""
        said = self._release(self._added())
        said, self._held, self._read = said + self._held, "", len(self._ids)
        return said

    def _one(self, token: int) -> str:
        self._ids.append(token)
        self.tokens += 1
        added = self._added()
        if not added or added.endswith(HALF):
            return ""
        self._ids, self._read = self._ids[self._read :], len(self._ids) - self._read
        return self._release(added)

    def _added(self) -> str:
        before = self._decode(self._ids[: self._read]) if self._read else ""
        return self._decode(self._ids)[len(before) :]

    def _release(self, added: str) -> str:
        text = self._held + added
        ends = [i for i in (text.find(s) for s in self._stop) if i >= 0]
        if ends:
            self.stopped = True
            self._held = ""
            return text[: min(ends)]
        keep = max((_overlap(text, s) for s in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def text_of(ids: Sequence[int], decode: Decode, stop: tuple[str, ...] = ()) -> str:
    """The text of ids that are all there, as `TextStream` gives it in pieces."""
    stream = TextStream(decode, stop)
    return stream.feed(ids) + stream.finish()


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` with which `stop` begins, not the whole of it."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
