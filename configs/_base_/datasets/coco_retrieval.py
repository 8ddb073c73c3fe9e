# COCO 2017 val: 5,000 images, 25,014 captions. Other files in that format, such as
# Karpathy's splits, are a matter of ann_file and data_prefix.img_path.
_base_ = ['retrieval.py']

benchmark = 'coco_retrieval'
test_dataloader = dict(
    dataset=dict(
        type='CocoCaptionsDataset',
        data_root='{{$PACL_DATA_ROOT:data}}/coco',
        ann_file='annotations/captions_val2017.json',
        data_prefix=dict(img_path='val2017'),
        test_mode=True,
        pipeline=[_base_.load, _base_.resize, _base_.pack],
    )
)
