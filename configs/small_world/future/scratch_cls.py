# Both towers of the tiny CLIP from random weights, by the class token alone, as CLIP.
# Half of the texts are captions, half noun prompts.
_base_ = ['../clip_pretrain.py']
train_dataloader = dict(
    batch_size=32,
    dataset=dict(
        dataset=dict(
            pipeline=[
                dict(type='NounPrompt', prob=0.5, templates='pacl7', nouns='given'),
                dict(type='PackImageText'),
            ]
        )
    ),
)
train_cfg = dict(max_iters=1500, val_interval=1500)
default_hooks = dict(checkpoint=dict(interval=1500))
