# Validation while training: Pascal VOC 2012 val, 20 classes, as in datasets/voc20.py,
# which is for testing alone and so turns training off. An experiment on any training
# data takes this as one more base, and sets the model's `dataset_name` to voc20.
_base_ = ['../evaluation.py']

val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='PascalVOC20Dataset',
        data_root='{{$PACL_DATA_ROOT:data}}/VOCdevkit/VOC2012',
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
        ann_file='ImageSets/Segmentation/val.txt',
        pipeline=[
            _base_.load_image,
            dict(type='Resize', scale=(2048, 336), keep_ratio=True),
            dict(type='LoadSegmentationMask', num_classes=20),
            _base_.pack,
        ],
    ),
)
val_evaluator = _base_.metrics
test_cfg = None  # tests are of configs of their own
