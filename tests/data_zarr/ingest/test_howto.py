"""The recipes of the how-to are recipes."""

from __future__ import annotations

import re
from pathlib import Path

import data_zarr.ingest
from data_zarr.ingest import PointRecipe, Recipe, from_toml, load_recipe

README = Path(data_zarr.ingest.__file__).with_name("README.md")


def test_every_recipe_of_the_readme_is_read(tmp_path: Path) -> None:
    blocks = re.findall(r"```(toml|python)\n(.*?)```", README.read_text(), flags=re.DOTALL)
    kinds = []
    for i, (language, text) in enumerate(blocks):
        page = tmp_path / f"r{i}.{'toml' if language == 'toml' else 'py'}"
        page.write_text(text)
        recipe = load_recipe(page)
        kinds.append(type(recipe))
        if isinstance(recipe, Recipe):
            recipe.check()
    assert kinds == [Recipe, Recipe, Recipe, PointRecipe]
    assert from_toml(blocks[0][1]).bandsets[1].factor == 2
