# pacl_vitb16_cc12m.py that is validated on Pascal VOC 2012, 20 classes, ten times on
# its way, with curves and pictures for TensorBoard:
#   pip install tensorboard && tensorboard --logdir work_dirs
# Any other config writes its curves there in place of vis_data/scalars.json with
#   --cfg-options visualizer.vis_backends.0.type=TensorboardVisBackend
_base_ = ['pacl_vitb16_cc12m.py', '_base_/datasets/voc20.py']
model = dict(decode_head=dict(dataset_name='voc20'))
val_dataloader = _base_.test_dataloader
val_evaluator = _base_.test_evaluator
val_cfg = dict(type='ValLoop')
max_iters = 30330
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 10)
# Of every 300th of 1,449 images.
default_hooks = dict(visualization=dict(draw=True, interval=300))
vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
visualizer = dict(vis_backends=vis_backends)
