# CIFAR-10 test: 10,000 images of 32 x 32 pixels.
_base_ = ['classification.py']

benchmark = 'cifar10'
# Its arrays are RGB; everything here takes BGR.
to_bgr = [
    dict(type='mmpretrain.NumpyToPIL'),
    dict(type='mmpretrain.PILToNumpy', to_bgr=True),
]
test_dataloader = dict(
    dataset=dict(
        type='mmpretrain.CIFAR10',
        data_root='{{$PACL_DATA_ROOT:data}}/cifar10',
        split='test',
        download=False,
        pipeline=[*to_bgr, _base_.resize, _base_.pack],
    )
)
