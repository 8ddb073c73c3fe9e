# Describable Textures, test: 1,880 images of the first split, 47 classes.
_base_ = ['classification.py']

benchmark = 'dtd'
test_dataloader = dict(
    dataset=dict(
        type='mmpretrain.DTD',
        data_root='{{$PACL_DATA_ROOT:data}}/dtd',
        split='test',
        pipeline=_base_.test_pipeline,
    )
)
