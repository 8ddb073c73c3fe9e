# Trains as github.com/NMS05/Patch-Aligned-Contrastive-Learning does: COCO 2017, the
# first caption of an image or, half the time, one of its noun phrases in a template;
# Adam at a constant rate, 1,024 pairs a batch, 10 epochs. Batches are full here, where
# the last one of an epoch has 527 there. The phrases need spaCy's en_core_web_sm.
_base_ = [
    '_base_/models/nms05_exact_vitb16.py',
    '_base_/datasets/coco_captions.py',
    '_base_/schedules/pacl.py',
    '_base_/default_runtime.py',
]
train_pipeline = [
    dict(type='LoadPILImage'),
    dict(type='PickCaption', pick='first'),
    dict(
        type='NounPrompt',
        prob=0.5,
        nouns='chunks',
        templates=[
            'a picture of {}.',
            'itap of {}.',
            'a photograph of {}.',
            'this picture contains {}.',
            'a good photo of {}.',
        ],
    ),
    # The image is squashed, and from ToTensor on of floating-point numbers.
    dict(type='mmpretrain.NumpyToPIL', to_rgb=True),
    dict(type='mmpretrain.torchvision/Resize', size=(400, 400)),
    dict(type='mmpretrain.torchvision/ToTensor'),
    dict(type='mmpretrain.torchvision/RandomHorizontalFlip', p=0.5),
    dict(type='mmpretrain.torchvision/ColorJitter', brightness=0.2, hue=0.1),
    dict(type='TokenizeCaption'),
    dict(type='PackImageText'),
]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
max_iters = 10 * 118_287 // 1024
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='Adam', lr=1e-4))
param_scheduler = []
