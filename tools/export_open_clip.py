"""Write the CLIP that a config trained as an open_clip weights file.

python tools/export_open_clip.py CONFIG CHECKPOINT OUT.safetensors
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import cli


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description='Export trained towers to open_clip')
    parser.add_argument('config', help='config with both towers unfrozen')
    parser.add_argument('checkpoint', help='checkpoint that it trained')
    parser.add_argument('out', help='.safetensors file, readable as `pretrained=`')
    cli.add_arguments(parser, '--traceback')
    args = parser.parse_args(argv)
    import torch
    from mmengine.registry import init_default_scope
    from safetensors.torch import save_file

    from pacl_mmseg.apis import load_config
    from pacl_mmseg.engine.checkpoint import load_checkpoint_file
    from pacl_mmseg.registry import MODELS

    init_default_scope('mmseg')
    model = MODELS.build(load_config(args.config).model)
    model.load_state_dict(load_checkpoint_file(args.checkpoint)['state_dict'])
    head = model.decode_head
    if model.backbone.frozen or head.text_encoder.frozen:
        raise ValueError(f'{args.config} trains no CLIP: its encoders are frozen.')
    if not hasattr(model.backbone, 'visual'):
        kind = type(model.backbone).__name__
        raise ValueError(f'{args.config} has a {kind}, which is no tower of open_clip.')
    weights = {
        **{f'visual.{k}': v for k, v in model.backbone.visual.state_dict().items()},
        **{f'text.{k}': v for k, v in head.text_encoder.text.state_dict().items()},
        'logit_scale': head.loss_decode.log_logit_scale.detach(),
    }
    # Half precision: half the file, and loading casts it back.
    save_file(
        {k: v.to(torch.float16).contiguous() for k, v in weights.items()}, args.out
    )


if __name__ == '__main__':
    cli.run(main)
