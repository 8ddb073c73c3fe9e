"""The vision tower of an open_clip ResNet as a dense backbone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from open_clip.model import CustomTextCLIP
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import record_function

from pacl_mmseg.models.encoder import ENCODER_KEYS
from pacl_mmseg.models.frozen import FrozenModule
from pacl_mmseg.models.open_clip_model import build_open_clip, describe
from pacl_mmseg.registry import MODELS
from pacl_mmseg.utils.names import check_choice


@MODELS.register_module()
class CLIPResNet(FrozenModule):
    """Dense features of a CLIP ResNet (RN50, ...), frozen by default.

    Such a tower ends in an attention pool: the mean of the last map asks, all its
    positions answer.

    Args:
        model, pretrained, init_seed: As for :class:`PACLBackbone`.
        output: ``'block'``, the last map, one position for 32 x 32 pixels; or
            ``'projection'``, every position through the value and the output projection
            of the pool alone, which is in the space of the texts (as MaskCLIP has it;
            without the pool's position embeddings, as there).
        output_cls_token: Return ``[map, pooled]`` in place of ``map``: after the pool,
            in the space of the texts, so with ``output='projection'``. In a map of
            another size than the model's own the pool's position embeddings are
            resized bicubically.
        frozen, dtype, compile, batch_size, clip: As for :class:`PACLBackbone`.

    Attributes:
        embed_dims: Channels of the map.

    Raises:
        ValueError: Bad option, or a model without such a vision tower.
    """

    encoder_keys, encoder_tower = ENCODER_KEYS, 'vision'

    def __init__(
        self,
        model: str | Mapping = 'RN50-quickgelu',
        pretrained: str | None = None,
        init_seed: int = 0,
        output: str = 'block',
        output_cls_token: bool = False,
        frozen: bool = True,
        dtype: str = 'float32',
        compile: bool = False,
        batch_size: int = 512,
        clip: CustomTextCLIP | None = None,
    ) -> None:
        super().__init__(frozen)
        check_choice('output', output, ('block', 'projection'))
        if output_cls_token and output != 'projection':
            raise ValueError(
                'A CLIPResNet pools into the space of the texts, where only '
                "output='projection' is: set that, or leave output_cls_token out."
            )
        if batch_size < 1:
            raise ValueError(f'batch_size must be at least 1, not {batch_size}.')
        self.description = describe(model, pretrained, init_seed)
        self.visual = (clip or build_open_clip(model, pretrained, init_seed)).visual
        if not isinstance(self.visual, ModifiedResNet):
            raise ValueError(
                f'{self.description} has a {type(self.visual).__name__} vision tower; '
                'CLIPResNet needs an open_clip ModifiedResNet (a RN* model).'
            )
        pool = self.visual.attnpool
        projects = output == 'projection'
        self.embed_dims = pool.c_proj.weight.shape[0 if projects else 1]
        self.output = output
        self.output_cls_token = output_cls_token
        self.batch_size = batch_size
        # What the outputs never pass through cannot train.
        pool.requires_grad_(output_cls_token)
        for layer in (pool.v_proj, pool.c_proj):
            layer.requires_grad_(projects)
        self.freeze(dtype)
        self._run = self.compile_if(compile, _last_map)

    @record_function('vision')
    def forward(self, inputs: Tensor) -> tuple[Tensor | list[Tensor]]:
        """Encode normalised images.

        Args:
            inputs: Images ``(N, 3, H, W)`` of at least 32 x 32 pixels.

        Returns:
            One item, ``(N, C, H // 32, W // 32)`` or ``[map, pooled (N, C)]``.
        """
        images = inputs.to(self.visual.conv1.weight.dtype)
        parts = self.in_parts(images, self.batch_size)
        with self.encoding():
            encoded = [self._encode(part) for part in parts]
        # Into ordinary tensors.
        outputs = [
            torch.cat(pieces).to(inputs.dtype) for pieces in zip(*encoded, strict=True)
        ]
        return (outputs if self.output_cls_token else outputs[0],)

    def _encode(self, images: Tensor) -> list[Tensor]:
        maps = self._run(self.visual, images)
        if self.output == 'block':
            return [maps]
        pool = self.visual.attnpool
        tokens = pool.c_proj(pool.v_proj(maps.permute(0, 2, 3, 1)))
        outputs = [tokens.permute(0, 3, 1, 2)]
        if self.output_cls_token:
            outputs.append(self._pool(maps))
        return outputs

    def _pool(self, maps: Tensor) -> Tensor:
        """What ``attnpool`` makes of maps ``(N, C, h, w)`` of any size, ``(N, D)``."""
        pool = self.visual.attnpool
        positions = self._positions(tuple(maps.shape[-2:])).to(maps.dtype)
        x = maps.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(1, keepdim=True), x], dim=1) + positions
        query, key, value = (
            layer(part).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
            for layer, part in (
                (pool.q_proj, x[:, :1]),
                (pool.k_proj, x),
                (pool.v_proj, x),
            )
        )
        heads = F.scaled_dot_product_attention(query, key, value)
        return pool.c_proj(heads.transpose(1, 2).flatten(1))

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """``(1 + h * w, C)``."""
        embedding = self.visual.attnpool.positional_embedding
        side = round((len(embedding) - 1) ** 0.5)
        if grid == (side, side):
            return embedding
        mean, cells = embedding[:1], embedding[1:].float().T.reshape(1, -1, side, side)
        cells = F.interpolate(cells, grid, mode='bicubic', align_corners=False)
        return torch.cat([mean, cells.flatten(2)[0].T.to(mean.dtype)])


def _last_map(visual: ModifiedResNet, images: Tensor) -> Tensor:
    """The tower's own forward up to its pool; no method, so that it can be compiled."""
    x = visual.stem(images)
    for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        x = layer(x)
    return x
