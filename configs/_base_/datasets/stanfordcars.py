# Stanford Cars test: 8,041 images, 196 models.
_base_ = ['classification.py']

benchmark = 'stanfordcars'
test_dataloader = dict(
    dataset=dict(
        type='mmpretrain.StanfordCars',
        data_root='{{$PACL_DATA_ROOT:data}}/Stanford_Cars',
        split='test',
        pipeline=_base_.test_pipeline,
    )
)
