# EuroSAT (RGB): all 27,000 images, since there is no official split. Classes are its
# folders in alphabetical order.
_base_ = ['classification.py']

benchmark = 'eurosat'
test_dataloader = dict(
    dataset=dict(
        type='mmpretrain.CustomDataset',
        data_root='{{$PACL_DATA_ROOT:data}}/EuroSAT',
        data_prefix=dict(img_path='2750'),
        pipeline=_base_.test_pipeline,
    )
)
