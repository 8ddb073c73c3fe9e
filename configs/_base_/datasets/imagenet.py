# ImageNet (ILSVRC 2012) val: 50,000 images, 1000 classes. Images in a folder per class,
# or beside meta/val.txt, which lists them with their labels.
_base_ = ['classification.py']

benchmark = 'imagenet'
test_dataloader = dict(
    dataset=dict(
        type='mmpretrain.ImageNet',
        data_root='{{$PACL_DATA_ROOT:data}}/imagenet',
        split='val',
        pipeline=_base_.test_pipeline,
    )
)
