# CIFAR-100 test: 10,000 images of 32 x 32 pixels.
_base_ = ['cifar10.py']

benchmark = 'cifar100'
test_dataloader = dict(
    dataset=dict(
        type='mmpretrain.CIFAR100', data_root='{{$PACL_DATA_ROOT:data}}/cifar100'
    )
)
