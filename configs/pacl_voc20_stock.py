# pacl_voc20.py by MMSeg's own EncoderDecoder: its sliding window and its argmax. Where
# every class has one name the labels are those of ZeroShotSegmentor. Here they differ:
# synonyms are merged in every window, before windows are averaged.
_base_ = ['pacl_voc20.py']
clip = _base_.model.encoder  # a stock segmentor has none: its parts say it
model = dict(
    _delete_=True,
    type='EncoderDecoder',
    data_preprocessor=dict(type='CLIPDataPreProcessor', **clip),
    backbone=dict(_base_.model.backbone, **clip),
    neck=_base_.model.neck,
    decode_head=dict(
        _base_.model.decode_head,
        text_encoder=dict(type='OpenCLIPTextEncoder', **clip),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='slide', crop_size=(224, 224), stride=(112, 112)),
)
test_evaluator = [dict(type='IoUMetric', iou_metrics=['mIoU'])]
