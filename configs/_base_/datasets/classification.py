# What testing on all classification sets has in common. Each adds its name and its
# files, by MMPretrain's own dataset type.
load = dict(
    type='LoadImageFromFile',
    imdecode_backend='pillow',  # as open_clip; some files of SUN397 need it
    color_type='color_ignore_orientation',
)
# Size, crop and interpolation of the model's encoder. What is too narrow for training,
# and left out there, counts here.
resize = dict(type='CLIPResizeCrop', max_aspect=100)
pack = dict(type='mmpretrain.PackInputs')
test_pipeline = [load, resize, pack]
test_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
)
# Top-1 and top-5; and "mean per class", which CLIP's paper reports of Caltech101,
# FGVCAircraft, Flowers102 and OxfordIIITPet.
test_evaluator = [
    dict(type='mmpretrain.Accuracy', topk=(1, 5), thrs=None),
    dict(type='MeanClassAccuracy'),
]
test_cfg = dict(type='TestLoop')
