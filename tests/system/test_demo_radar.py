"""The second story of the demo, end to end."""

from __future__ import annotations

from demo_story import check


def test_demo(tmp_path, capsys):
    check("radar", 4326, tmp_path, capsys)
