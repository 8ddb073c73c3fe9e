# WaterBirds test (waterbird_complete95_forest2water2): 5,794 images, two kinds of birds
# on two kinds of places.
_base_ = ['classification.py']

benchmark = 'waterbirds'
pack = dict(type='mmpretrain.PackInputs', meta_keys=('img_path', 'ori_shape', 'place'))
test_dataloader = dict(
    dataset=dict(
        type='WaterBirds',
        data_root='{{$PACL_DATA_ROOT:data}}/waterbird_complete95_forest2water2',
        split='test',
        pipeline=[_base_.load, _base_.resize, pack],
    )
)
test_evaluator = [dict(type='GroupAccuracy')]
