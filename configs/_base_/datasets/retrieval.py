# What retrieval of captions by images, and of images by captions, has in common.
load = dict(type='LoadImageFromFile', imdecode_backend='pillow')
resize = dict(type='CLIPResizeCrop', max_aspect=100)
pack = dict(type='mmpretrain.PackInputs', algorithm_keys=('captions',))
test_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_evaluator = dict(type='mmpretrain.RetrievalRecall', topk=(1, 5, 10))
# Tokens of all images are kept, and compared with all captions at the end.
test_cfg = dict(type='mmpretrain.RetrievalTestLoop')
