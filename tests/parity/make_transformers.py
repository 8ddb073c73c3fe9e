"""Writes ``transformers.npz``: a tiny CLIP of Hugging Face and its outputs.

python tests/parity/make_transformers.py   (where `transformers` is installed)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import CLIPConfig, CLIPModel

TEXT = dict(vocab_size=64, max_position_embeddings=8, eos_token_id=63)
VISION = dict(image_size=24, patch_size=8)
COMMON = dict(
    hidden_size=16,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    hidden_act='quick_gelu',
    projection_dim=8,
)


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    config = CLIPConfig(
        projection_dim=8, text_config=TEXT | COMMON, vision_config=VISION | COMMON
    )
    clip = CLIPModel(config).eval()
    for parameter in clip.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    images = torch.randn(2, 3, 24, 24)
    tokens = torch.tensor([[62, 5, 7, 63, 0, 0, 0, 0], [62, 9, 1, 3, 8, 2, 4, 63]])
    out = clip(input_ids=tokens, pixel_values=images)
    made = dict(
        clip.state_dict(),
        images=images,
        tokens=tokens,
        image_embeds=out.image_embeds,
        text_embeds=out.text_embeds,
    )
    arrays = {name: value.numpy() for name, value in made.items()}
    np.savez_compressed(Path(__file__).with_name('transformers.npz'), **arrays)


if __name__ == '__main__':
    main()
