"""The weights that the golden files of tests/parity were made with."""

from __future__ import annotations

import pytest
import torch
from parity import recipe

from pacl_mmseg.models.open_clip_model import build_open_clip


@pytest.fixture(scope='session')
def parity_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A weights file for ``recipe.ARCHITECTURE``."""
    names = dict(build_open_clip(recipe.ARCHITECTURE).named_parameters())
    openai = {name: name.removeprefix('text.') for name in names}
    values = recipe.weights({openai[name]: v.shape for name, v in names.items()})
    path = tmp_path_factory.mktemp('parity') / 'clip.pt'
    torch.save({name: values[openai[name]] for name in names}, path)
    return str(path)
