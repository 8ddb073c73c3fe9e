# Cityscapes val, 19 classes.
_base_ = ['benchmark.py']

benchmark = 'cityscapes'
resize = dict(type='Resize', scale=(2048, 560), keep_ratio=True)
load_mask = dict(type='LoadSegmentationMask', num_classes=19)
test_pipeline = [_base_.load_image, resize, load_mask, _base_.pack]
test_dataloader = dict(
    dataset=dict(
        type='CityscapesDataset',
        data_root='{{$PACL_DATA_ROOT:data}}/cityscapes',
        data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
        pipeline=test_pipeline,
    )
)
