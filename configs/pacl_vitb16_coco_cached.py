# pacl_vitb16_coco.py from features that are encoded once, by
#     python tools/dataset_tools/cache_features.py configs/pacl_vitb16_coco_cached.py
# 118,287 images need 35.6 GB (--dtype int8: 17.9 GB) and their texts about 1.3 GB.
_base_ = ['pacl_vitb16_coco.py']
train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            _delete_=True,
            type='CachedFeatures',
            root='{{$PACL_DATA_ROOT:data}}/coco_features',
            source=_base_.train_dataloader.dataset.dataset,
        ),
    ),
)
