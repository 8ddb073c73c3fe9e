# COCO 2017 train as image files: 118,287 images, each with its five captions, of which
# every draw of the image takes one at random.
_base_ = ['image_text_shards.py']
num_pairs = 591_753
train_dataloader = dict(
    sampler=dict(_delete_=True, type='DrawSampler'),
    dataset=dict(
        _delete_=True,
        type='ShuffledDraws',
        dataset=dict(
            type='CocoCaptionsDataset',
            data_root='{{$PACL_DATA_ROOT:data}}/coco',
            ann_file='annotations/captions_train2017.json',
            data_prefix=dict(img_path='train2017'),
            pipeline=_base_.train_pipeline,
        ),
    ),
)
