"""Images narrower than a window, under SCLIP's protocol, against its procedure.

As clip_segmentor.py and clip/model.py of wangf3014/SCLIP at b56bd30 do it: windows are
as small as the image makes them, the patch embedding leaves out what its patches do not
tile, position embeddings are resized by a scale of ``(n + 0.1) / N``, and scores are
spread over the whole window.
"""

from __future__ import annotations

import math

import pytest
import torch
from mmengine.config import ConfigDict
from mmseg.structures import SegDataSample
from parity import recipe
from torch import Tensor, nn
from torch.nn import functional as F

from pacl_mmseg.benchmark import compose
from pacl_mmseg.registry import MODELS

PATCH, WINDOW, STRIDE = 8, 32, 16


def their_tokens(visual: nn.Module, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """``(h * w, D)`` of one image ``(3, H, W)``, and ``(h, w)``."""
    x = F.conv2d(image[None], visual.conv1.weight, stride=PATCH)
    grid = tuple(x.shape[-2:])
    x = torch.cat([visual.class_embedding[None], x[0].flatten(1).T])
    own = visual.positional_embedding
    side = math.isqrt(len(own) - 1)
    if grid != (side, side):
        patches = own[1:].T.reshape(1, -1, side, side)
        scale = tuple((n + 0.1) / side for n in grid)
        patches = F.interpolate(patches, scale_factor=scale, mode='bicubic')
        own = torch.cat([own[:1], patches[0].flatten(1).T])
    x = visual.ln_pre(x + own)
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        x = block(x[None])[0]
    weight, bias = last.attn.in_proj_weight, last.attn.in_proj_bias
    heads, width = last.attn.num_heads, x.shape[1]
    q, k, v = (
        part.reshape(len(x), heads, -1).transpose(0, 1)
        for part in F.linear(last.ln_1(x), weight, bias).split(width, dim=1)
    )
    scale = (width // heads) ** -0.5
    weights = sum((scale * a @ a.transpose(1, 2)).softmax(-1) for a in (q, k))
    x = x + last.attn.out_proj((weights @ v).transpose(0, 1).reshape(len(x), width))
    x = x + last.mlp(last.ln_2(x))
    return (visual.ln_post(x) @ visual.proj)[1:], grid


def their_labels(
    visual: nn.Module, names: Tensor, image: Tensor, size: tuple[int, int]
) -> Tensor:
    """``(H, W)`` at the original size; ``names`` are unit vectors ``(K, D)``."""
    height, width = image.shape[1:]
    total, count = torch.zeros(len(names), height, width), torch.zeros(height, width)
    for top in range(0, max(height - WINDOW + STRIDE - 1, 0) + 1, STRIDE):
        for left in range(0, max(width - WINDOW + STRIDE - 1, 0) + 1, STRIDE):
            bottom, right = min(top + WINDOW, height), min(left + WINDOW, width)
            part = (
                slice(max(bottom - WINDOW, 0), bottom),
                slice(max(right - WINDOW, 0), right),
            )
            window = image[:, part[0], part[1]]
            tokens, grid = their_tokens(visual, window)
            scores = (F.normalize(tokens, dim=1) @ names.T).T.reshape(1, -1, *grid)
            scores = F.interpolate(scores, window.shape[1:], mode='bilinear')
            total[:, part[0], part[1]] += scores[0]
            count[part] += 1
    averaged = F.interpolate((total / count)[None], size, mode='bilinear')
    return averaged[0].argmax(0)


@pytest.mark.parametrize(
    'size',
    # As 2010 x 140 pixels are to a window of 224, and sizes of all kinds around them.
    [(20, 292), (292, 20), (20, 21), (33, 19), (31, 33), (15, 40)],
)
def test_labels_are_those_of_sclips_code(parity_weights, size):
    config = compose('sclip', 'ade20k').model
    head = config.decode_head
    assert head.pop('dataset_name') == 'ade20k'
    head.update(vocabulary=[f'thing {i}' for i in range(9)], templates='plain')
    config.encoder = dict(model=recipe.ARCHITECTURE, pretrained=parity_weights)
    config.test_cfg.update(crop_size=(WINDOW, WINDOW), stride=(STRIDE, STRIDE))
    original = (round(size[0] / 1.02), round(size[1] / 1.02))
    image = recipe.images(*size)
    with torch.no_grad():
        model = MODELS.build(ConfigDict(config)).eval()
        sample = SegDataSample(metainfo=dict(ori_shape=original))
        labels = model.predict(image, [sample])[0].pred_sem_seg.data[0]
        names = model.decode_head.text_bank.embeddings
        expected = their_labels(model.backbone.visual, names, image[0], original)
    assert len(expected.unique()) > 2
    differ = (labels != expected).float().mean()
    assert differ < 0.001  # rounding may decide a pixel between two classes
