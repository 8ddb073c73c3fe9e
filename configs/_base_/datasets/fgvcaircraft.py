# FGVC-Aircraft test: 3,333 images, 100 variants.
_base_ = ['classification.py']

benchmark = 'fgvcaircraft'
test_dataloader = dict(
    dataset=dict(
        type='mmpretrain.FGVCAircraft',
        data_root='{{$PACL_DATA_ROOT:data}}/fgvc-aircraft-2013b',
        split='test',
        pipeline=_base_.test_pipeline,
    )
)
