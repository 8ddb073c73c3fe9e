"""Tokens of the training-free methods equal those of their authors' code."""

from __future__ import annotations

import pytest
import torch
from parity import recipe
from torch import Tensor
from torch.nn import functional as F

from pacl_mmseg.models import PACLBackbone

# What the code of SCLIP, ClearCLIP and NACLIP does with positions and borders.
FIELD = dict(interpolate_offset=0.1, fit='crop')
# How MaskCLIP's own ViT is configured.
MASKCLIP_VIT = {
    **recipe.ARCHITECTURE,
    'quick_gelu': False,
    'vision_cfg': {
        **recipe.ARCHITECTURE['vision_cfg'],
        'norm_kwargs': dict(eps=1e-6),
    },
}


def cosines(weights: str, size: str, **options: object) -> Tensor:
    """Of the tokens of two images with the name vectors, ``(2, names, tokens)``."""
    options = {'model': recipe.ARCHITECTURE, **options}
    backbone = PACLBackbone(pretrained=weights, output='projection', **options)
    (maps,) = backbone(recipe.dense_images(size)[size])
    return recipe.name_vectors() @ F.normalize(maps.flatten(2), dim=1)


def assert_equal(result: Tensor, expected: Tensor) -> None:
    # The methods differ from each other by 0.08 and more.
    torch.testing.assert_close(result, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ('code', 'method', 'size'),
    [
        *[('sclip', m, s) for m in ('clip', 'sclip') for s in recipe.SIZES],
        *[
            ('clearclip', method, size)
            for method in ('clip', 'maskclip', 'sclip', 'clearclip')
            for size in ('native', 'large')
        ],
    ],
)
def test_sclip_and_clearclip(parity_weights, code, method, size):
    variant = None if method == 'clip' else method
    result = cosines(parity_weights, size, dense_attention=variant, **FIELD)
    assert_equal(result, recipe.golden(code, f'{method}_{size}'))


@pytest.mark.parametrize('size', recipe.SIZES)
@pytest.mark.parametrize(
    ('variant', 'std'), [('naclip', 5), (dict(type='naclip', std=1.5), 1.5)]
)
def test_naclip(parity_weights, variant, std, size):
    result = cosines(parity_weights, size, dense_attention=variant, **FIELD)
    assert_equal(result, recipe.golden('naclip', f'naclip_{std}_{size}'))


@pytest.mark.parametrize('size', ['native', 'large'])
def test_maskclip(parity_weights, size):
    options = dict(model=MASKCLIP_VIT, dense_attention='maskclip')
    result = cosines(parity_weights, size, **options)
    assert_equal(result, recipe.golden('maskclip', f'maskclip_{size}'))
