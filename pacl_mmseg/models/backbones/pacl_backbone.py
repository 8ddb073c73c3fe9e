"""The vision tower of an open_clip ViT as a dense backbone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from open_clip.model import CustomTextCLIP
from open_clip.transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import record_function

from pacl_mmseg.models.backbones.dense_attention import build_dense_attention
from pacl_mmseg.models.backbones.fit import FITS, fit_to_patches
from pacl_mmseg.models.encoder import ENCODER_KEYS
from pacl_mmseg.models.frozen import FrozenModule
from pacl_mmseg.models.open_clip_block import block_runner, call_block, is_plain
from pacl_mmseg.models.open_clip_model import build_open_clip, describe
from pacl_mmseg.registry import MODELS
from pacl_mmseg.utils.names import check_choice

OUTPUTS = ('block', 'norm', 'projection')
INTERPOLATE_MODES = ('bicubic', 'bilinear')


@MODELS.register_module()
class PACLBackbone(FrozenModule):
    """Dense patch tokens of a CLIP vision transformer, frozen by default.

    Args:
        model: An open_clip model name (``'ViT-B-16-quickgelu'``) or an inline
            architecture (dict of ``embed_dim``, ``vision_cfg``, ``text_cfg``).
        pretrained: An open_clip tag (``'openai'``), a local weights file, or None for
            random weights.
        init_seed: Seed of random weights.
        output: What is returned of a layer: ``'block'``, the tokens as they leave it
            (PACL: 768 channels for ViT-B/16; whether the paper applies CLIP's last
            layer norm is not known); ``'norm'``, after ``ln_post``; ``'projection'``,
            after ``ln_post`` and the visual projection, in the space of the texts
            (the training-free baselines).
        out_indices: Index or indices of the layers to return, 0-based, negative from
            the end.
        stride: Stride in pixels of the patch embedding, by default the patch size.
            A smaller one gives more, overlapping patches with no retraining (the
            paper's "stride trick", 224 px at stride 4: 53 x 53 tokens).
        fit: What becomes of an image that the patches do not tile exactly:
            ``'resize'``, it is resized up to the next size that they do; ``'crop'``,
            the rest at the right and at the bottom is left out, which is what SCLIP's
            and NACLIP's code (NACLIP segments VOC without windows) does by
            leaving it to the patch embedding. One smaller than a patch is resized.
        interpolate_offset: Added to the token grid where the scale of resized position
            embeddings is computed. DINO (``interpolate_pos_encoding``) introduced 0.1
            against rounding, and the code of SCLIP, ClearCLIP and NACLIP has it; it
            shifts what is sampled slightly. MaskCLIP and open_clip have none.
        interpolate_mode: How position embeddings are resized to another grid,
            ``'bicubic'`` or ``'bilinear'`` (NMS05).
        dense_attention: None, or a variant of the last block by name, ``'maskclip'``,
            ``'sclip'``, ``'clearclip'``, ``'naclip'``, or with options
            (:func:`~pacl_mmseg.models.backbones.dense_attention.build_dense_attention`).
        output_cls_token: Return ``[tokens, cls]`` in place of ``tokens``, as MMSeg's
            own ``VisionTransformer`` does.
        frozen: If False the tower trains.
        dtype: Precision of the frozen tower: ``'float32'``, ``'bfloat16'`` or
            ``'float16'``. Tokens are returned in the precision of the images, which
            in training :class:`CLIPDataPreProcessor` gives in that of the tower.
        compile: Compile the frozen tower's blocks (``torch.compile``; one graph serves
            all of them). Where that fails they run uncompiled, with a warning.
        batch_size: Images that the frozen tower encodes at once; more go in equal
            parts. It bounds what the activations take: the widest of ViT-B/16 at 224
            px have 197 x 3072 values per image, 0.6 GB for 512 images in 16 bits,
            while its matrix products still have 100,000 rows.
        clip: The open_clip model that the first three describe, where it is built
            already.

    Attributes:
        token_grid: ``(h, w)`` of tokens given in place of images; None: the model's
            own grid.

    Raises:
        ValueError: Bad option, or a model without an open_clip ViT vision tower.
    """

    encoder_keys, encoder_tower = ENCODER_KEYS, 'vision'

    def __init__(
        self,
        model: str | Mapping = 'ViT-B-16-quickgelu',
        pretrained: str | None = None,
        init_seed: int = 0,
        output: str = 'block',
        out_indices: int | Sequence[int] = -1,
        stride: int | None = None,
        fit: str = 'resize',
        interpolate_offset: float = 0.0,
        interpolate_mode: str = 'bicubic',
        dense_attention: str | Mapping | None = None,
        output_cls_token: bool = False,
        frozen: bool = True,
        dtype: str = 'float32',
        compile: bool = False,
        batch_size: int = 512,
        clip: CustomTextCLIP | None = None,
    ) -> None:
        super().__init__(frozen)
        check_choice('output', output, OUTPUTS)
        check_choice('fit', fit, FITS)
        check_choice('interpolate_mode', interpolate_mode, INTERPOLATE_MODES)
        if not 0 <= interpolate_offset < 1:
            raise ValueError(
                f'interpolate_offset must be in [0, 1), not {interpolate_offset}.'
            )
        if batch_size < 1:
            raise ValueError(f'batch_size must be at least 1, not {batch_size}.')
        self.description = describe(model, pretrained, init_seed)
        self.visual = (clip or build_open_clip(model, pretrained, init_seed)).visual
        if not isinstance(self.visual, VisionTransformer):
            raise ValueError(
                f'{self.description} has a {type(self.visual).__name__} vision tower; '
                'PACLBackbone needs an open_clip VisionTransformer (a ViT-* model); of '
                'a ResNet (RN50) the backbone is a CLIPResNet, of timm a TimmTower.'
            )
        if output != 'block' and self.visual.attn_pool is not None:
            raise ValueError(
                f'{self.description} projects what an attention pooling makes of its '
                "tokens, not the tokens: only output='block' works."
            )
        if output_cls_token and self.visual.pool_type != 'tok':
            raise ValueError(
                f'{self.description} pools its tokens (pool_type='
                f'{self.visual.pool_type!r}) and has no use for CLS: leave '
                'output_cls_token out.'
            )
        layers = len(self.visual.transformer.resblocks)
        indices = [out_indices] if isinstance(out_indices, int) else list(out_indices)
        if any(not -layers <= i < layers for i in indices):
            raise ValueError(
                f'out_indices {out_indices}: the tower has {layers} layers.'
            )
        self.out_indices = [i % layers for i in indices]
        patch_size = self.visual.patch_size
        if stride is not None and not 1 <= stride <= min(patch_size):
            raise ValueError(f'stride must be in 1..{min(patch_size)}, not {stride}.')
        self.patch_size = patch_size
        self.stride = patch_size if stride is None else (stride, stride)
        self.output = output
        self.output_cls_token = output_cls_token
        self.batch_size = batch_size
        self.token_grid: tuple[int, int] | None = None
        self.fit = fit
        self.interpolate_offset = interpolate_offset
        self.interpolate_mode = interpolate_mode
        self._dense_attention = None
        if dense_attention is not None:
            self._dense_attention = build_dense_attention(dense_attention)
            self._check_last_block(layers)
        # What the outputs never pass through cannot train.
        self.visual.transformer.resblocks[max(self.out_indices) + 1 :].requires_grad_(
            False
        )
        self.visual.ln_post.requires_grad_(output != 'block')
        if self.visual.proj is not None:
            self.visual.proj.requires_grad_(output == 'projection')
        self.freeze(dtype)
        if frozen:  # so it is a matrix with no copy, and its products are tokens
            self.visual.conv1.to(memory_format=torch.channels_last)
        blocks = self.visual.transformer.resblocks
        runner = block_runner(blocks) if frozen else call_block
        self._run_block = self.compile_if(compile, runner)

    def _check_last_block(self, layers: int) -> None:
        block = self.visual.transformer.resblocks[-1]
        if not is_plain(block):
            raise ValueError(
                f'{self.description} has blocks of type {type(block).__name__} with '
                f'{type(block.attn).__name__}; dense_attention takes apart those of '
                'CLIP itself, ResidualAttentionBlock with nn.MultiheadAttention.'
            )
        if layers - 1 not in self.out_indices:
            raise ValueError(
                f'dense_attention changes the last of {layers} layers, which '
                f'out_indices {self.out_indices} leaves out.'
            )

    @record_function('vision')
    def forward(self, inputs: Tensor) -> tuple[Tensor | list[Tensor], ...]:
        """Encode normalised images.

        Args:
            inputs: Images ``(N, 3, H, W)`` of any size; see ``fit``. Or tokens of a
                single layer that such a backbone made of them, ``(N, h * w, C)``, with
                ``output_cls_token`` ``(N, 1 + h * w, C)``, CLS first: they are only
                made maps of.

        Returns:
            One item per layer of ``out_indices``: tokens ``(N, C, h, w)`` with
            ``h = (H - patch) / stride + 1`` (``H / patch`` at the default stride),
            rounded up with ``fit='resize'`` and down with ``'crop'``, or
            ``[tokens, cls (N, C)]``.

        Raises:
            ValueError: Another number of tokens than the grid has.
        """
        if inputs.ndim == 3:
            tokens, cls, grid = self._given_tokens(inputs)
            return (self._format(tokens, cls, grid),)
        parts = self.in_parts(inputs, self.batch_size)
        with self.encoding():
            encoded, grids = zip(*map(self._encode, parts), strict=True)
        # Into ordinary tensors, without a gap for CLS.
        return tuple(
            self._format(
                torch.cat([tokens[:, 1:] for tokens in layer]),
                torch.cat([tokens[:, 0] for tokens in layer]),
                grids[0],
            )
            for layer in zip(*encoded, strict=True)
        )

    def _encode(self, images: Tensor) -> tuple[list[Tensor], tuple[int, int]]:
        """``(N, 1 + h * w, C)`` of each layer asked for, and the grid ``(h, w)``."""
        tokens, grid = self._embed(images)
        blocks = self.visual.transformer.resblocks
        layers = []
        for index, block in enumerate(blocks[: max(self.out_indices) + 1]):
            if index == len(blocks) - 1 and self._dense_attention is not None:
                tokens = self._dense_attention(block, tokens, grid)
            else:
                tokens = self._run_block(block, tokens)
            if index in self.out_indices:
                layers.append(self._project(tokens).to(images.dtype))
        return layers, grid

    def _embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        visual = self.visual
        images, grid = fit_to_patches(images, self.patch_size, self.stride, self.fit)
        weight = visual.conv1.weight
        images = images.to(weight.dtype)
        if self.stride == self.patch_size:
            # Patches side by side: a matrix product like all others, where how well a
            # convolution of three channels does is up to the library.
            x = images.permute(0, 2, 3, 1)
            x = x.unflatten(2, (-1, self.stride[1])).unflatten(1, (-1, self.stride[0]))
            x = x.transpose(2, 3).flatten(3).flatten(1, 2)
            x = F.linear(x, weight.permute(0, 2, 3, 1).flatten(1))
        else:
            x = F.conv2d(images, weight, stride=self.stride)
            x = x.flatten(2).transpose(1, 2)
        cls = visual.class_embedding.to(x.dtype).expand(len(x), 1, -1)
        x = torch.cat([cls, x], dim=1) + self._position_embedding(grid).to(x.dtype)
        return visual.ln_pre(x), grid

    def _position_embedding(self, grid: tuple[int, int]) -> Tensor:
        """``(1 + h * w, C)``: CLIP's own, or resized to another grid."""
        embedding = self.visual.positional_embedding
        own_grid = tuple(self.visual.grid_size)
        if grid == own_grid:
            return embedding
        cls, patches = embedding[:1], embedding[1:]
        patches = patches.float().T.reshape(1, -1, *own_grid)
        if self.interpolate_offset:
            scale = [
                (n + self.interpolate_offset) / own
                for n, own in zip(grid, own_grid, strict=True)
            ]
            target = dict(scale_factor=scale)
        else:
            target = dict(size=grid)
        patches = F.interpolate(
            patches, **target, mode=self.interpolate_mode, align_corners=False
        )
        return torch.cat([cls, patches.flatten(2)[0].T.to(cls.dtype)])

    def _project(self, tokens: Tensor) -> Tensor:
        if self.output != 'block':
            tokens = self.visual.ln_post(tokens)
        if self.output == 'projection':
            tokens = tokens @ self.visual.proj
        return tokens

    def _given_tokens(
        self, tokens: Tensor
    ) -> tuple[Tensor, Tensor | None, tuple[int, int]]:
        """Patch tokens ``(N, h * w, C)``, CLS if it is among them, and the grid."""
        extra = int(self.output_cls_token)
        grid = self.token_grid or tuple(self.visual.grid_size)
        if tokens.shape[1] != math.prod(grid) + extra:
            raise ValueError(
                f'{tokens.shape[1]} tokens in place of an image, where a grid of {grid}'
                f'{" and CLS" if extra else ""} has {math.prod(grid) + extra}: set '
                'token_grid of the backbone to their (height, width).'
            )
        return tokens[:, extra:], tokens[:, 0] if extra else None, grid

    def _format(
        self, tokens: Tensor, cls: Tensor | None, grid: tuple[int, int]
    ) -> Tensor | list[Tensor]:
        # A view, not a copy: the embedder turns it back into tokens at no cost.
        maps = tokens.unflatten(1, grid).permute(0, 3, 1, 2)
        return [maps, cls] if self.output_cls_token else maps
