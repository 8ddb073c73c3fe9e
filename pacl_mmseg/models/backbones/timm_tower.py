"""A vision tower of timm as a dense backbone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from pacl_mmseg.models.backbones.fit import FITS, fit_to_patches
from pacl_mmseg.models.encoder import ENCODER_KEYS
from pacl_mmseg.models.frozen import FrozenModule
from pacl_mmseg.models.open_clip_model import describe
from pacl_mmseg.models.timm_model import build_timm
from pacl_mmseg.registry import MODELS
from pacl_mmseg.utils.names import check_choice


@MODELS.register_module()
class TimmTower(FrozenModule):
    """Patch tokens of a timm vision transformer, or maps of another timm model.

    DINO, DINOv2 with registers, DINOv3, MAE, supervised ViTs, ResNets of torchvision:
    all that have timm's ``forward_intermediates``, whose features these are. Class and
    register tokens take part in attention and are left out of the maps. Position
    embeddings are resized to the image as timm does it.

    Args:
        model, pretrained, init_seed: A timm model and its weights, as
            :func:`~pacl_mmseg.models.timm_model.build_timm` takes them. In a
            :class:`ZeroShotSegmentor` ``model.encoder.vision`` says them.
        output: What is returned of a layer: ``'block'``, the tokens as they leave it;
            ``'norm'``, after the last layer norm (of transformers).
        out_indices: Index or indices of the layers to return, of a transformer its
            blocks, 0-based, negative from the end; of a convolutional network its
            stages. Later layers are dropped.
        fit: What becomes of an image that the patches do not tile exactly; see
            :class:`PACLBackbone`.
        output_cls_token: Return ``[tokens, cls]`` in place of ``tokens``.
        patch_drop_rate: Share of the patch tokens that are left out in training, others
            for every image. Those that are kept are one column of a map.
        frozen: If False the tower trains.
        dtype: Precision of the frozen tower; tokens are returned in that of images.
        compile: Compile the frozen tower.
        batch_size: Images that the frozen tower encodes at once; more go in parts.

    Attributes:
        embed_dims: Channels of the last of the layers.
        patch_size: Height and width of a patch, in pixels; 1 without patches.

    Raises:
        ValueError: Bad option, an unknown model, or one without what is asked for.
    """

    encoder_keys, encoder_tower = ENCODER_KEYS, 'vision'

    def __init__(
        self,
        model: str,
        pretrained: str | None = None,
        init_seed: int = 0,
        output: str = 'block',
        out_indices: int | Sequence[int] = -1,
        fit: str = 'resize',
        output_cls_token: bool = False,
        patch_drop_rate: float = 0.0,
        frozen: bool = True,
        dtype: str = 'float32',
        compile: bool = False,
        batch_size: int = 512,
    ) -> None:
        super().__init__(frozen)
        check_choice('output', output, ('block', 'norm'))
        check_choice('fit', fit, FITS)
        if batch_size < 1:
            raise ValueError(f'batch_size must be at least 1, not {batch_size}.')
        if not 0 <= patch_drop_rate < 1:
            raise ValueError(
                f'patch_drop_rate must be in [0, 1), not {patch_drop_rate}.'
            )
        if patch_drop_rate and frozen:
            raise ValueError(
                'patch_drop_rate is for a tower that trains: set frozen=False, or '
                'leave it out.'
            )
        self.description = describe(model, pretrained, init_seed)
        options = dict(patch_drop_rate=patch_drop_rate) if patch_drop_rate else {}
        self.trunk = build_timm(model, pretrained, init_seed, **options)
        self._has_tokens = hasattr(self.trunk, 'num_prefix_tokens')
        self._check(output, output_cls_token)
        layers = self.trunk.feature_info
        indices = [out_indices] if isinstance(out_indices, int) else list(out_indices)
        if any(not -len(layers) <= i < len(layers) for i in indices):
            raise ValueError(
                f'out_indices {out_indices}: {self.description} has {len(layers)} '
                'layers.'
            )
        self.out_indices = [i % len(layers) for i in indices]
        self.embed_dims = layers[self.out_indices[-1]]['num_chs']
        self.patch_size = (1, 1)
        if self._has_tokens:
            self.patch_size = tuple(self.trunk.patch_embed.patch_size)
        self.output = output
        self.fit = fit
        self.output_cls_token = output_cls_token
        self.batch_size = batch_size
        self.freeze(dtype)
        # What the outputs never pass through; the fingerprint is that of all weights.
        self.trunk.prune_intermediate_layers(
            self.out_indices, prune_norm=output != 'norm', prune_head=True
        )
        self._run = self.compile_if(compile, _intermediates)

    def _check(self, output: str, output_cls_token: bool) -> None:
        trunk = self.trunk
        if not hasattr(trunk, 'prune_intermediate_layers'):
            raise ValueError(
                f'{self.description} is a {type(trunk).__name__}, which has no '
                'forward_intermediates in timm: take another model.'
            )
        if self._has_tokens and hasattr(trunk.patch_embed, 'backbone'):
            raise ValueError(
                f'{self.description} cuts patches out of the maps of a convolutional '
                'network, whose grid timm does not say: take a ViT without one.'
            )
        norm = getattr(trunk, 'norm', None) if self._has_tokens else None
        if output == 'norm' and (norm is None or isinstance(norm, nn.Identity)):
            raise ValueError(
                f"{self.description} has no layer norm behind its tokens: output='norm'"
                " would be output='block'."
            )
        if output_cls_token and getattr(trunk, 'cls_token', None) is None:
            raise ValueError(
                f'{self.description} has no class token: leave output_cls_token out.'
            )

    @record_function('vision')
    def forward(self, inputs: Tensor) -> tuple[Tensor | list[Tensor], ...]:
        """Encode normalised images.

        Args:
            inputs: Images ``(N, 3, H, W)`` of any size; see ``fit``.

        Returns:
            One item per layer of ``out_indices``: tokens ``(N, C, h, w)``, or
            ``[tokens, cls (N, C)]``. While patches are dropped, ``(N, C, kept, 1)``.
        """
        images, grid = fit_to_patches(
            inputs, self.patch_size, self.patch_size, self.fit
        )
        images = images.to(next(self.trunk.parameters()).dtype)
        parts = self.in_parts(images, self.batch_size)
        norm = self.output == 'norm'
        with self.encoding():
            encoded = [
                self._run(self.trunk, part, self.out_indices, norm, self._has_tokens)
                for part in parts
            ]
        # Into ordinary tensors.
        layers = [
            [torch.cat(pieces).to(inputs.dtype) for pieces in zip(*layer, strict=True)]
            for layer in zip(*encoded, strict=True)
        ]
        return tuple(self._format(grid, *layer) for layer in layers)

    def _format(
        self, grid: tuple[int, int], maps: Tensor, prefix: Tensor | None = None
    ) -> Tensor | list[Tensor]:
        if maps.ndim == 3:
            if self.training and maps.shape[1] < grid[0] * grid[1]:
                grid = maps.shape[1], 1  # the patches that were not dropped
            # A view, not a copy: the embedder turns it back into tokens at no cost.
            maps = maps.unflatten(1, grid).permute(0, 3, 1, 2)
        return [maps, prefix[:, 0]] if self.output_cls_token else maps


def _intermediates(
    trunk: nn.Module,
    images: Tensor,
    indices: Sequence[int],
    norm: bool,
    has_tokens: bool,
) -> list[tuple[Tensor, ...]]:
    """Of each layer its map; or its patch tokens ``(N, T, C)`` and, if any, the others.

    A function of its arguments alone, so that it can be compiled.
    """
    options: dict = {}
    if has_tokens:
        options = dict(output_fmt='NLC', return_prefix_tokens=True, norm=norm)
    layers = trunk.forward_intermediates(
        images,
        indices=list(indices),
        intermediates_only=True,
        stop_early=True,
        **options,
    )
    return [layer if isinstance(layer, tuple) else (layer,) for layer in layers]
