# Oxford-IIIT Pet test: 3,669 images, 37 breeds.
_base_ = ['classification.py']

benchmark = 'oxfordiiitpet'
test_dataloader = dict(
    dataset=dict(
        type='mmpretrain.OxfordIIITPet',
        data_root='{{$PACL_DATA_ROOT:data}}/Oxford-IIIT_Pets',
        split='test',
        pipeline=_base_.test_pipeline,
    )
)
