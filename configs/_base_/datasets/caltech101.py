# Caltech101: there is no official split; 6,728 test images of MMPretrain's lists
# (caltech_meta.zip), 102 classes with the background.
_base_ = ['classification.py']

benchmark = 'caltech101'
test_dataloader = dict(
    dataset=dict(
        type='mmpretrain.Caltech101',
        data_root='{{$PACL_DATA_ROOT:data}}/caltech-101',
        split='test',
        pipeline=_base_.test_pipeline,
    )
)
