custom_imports = dict(imports=['pacl_mmseg'], allow_failed_imports=False)
default_scope = 'mmseg'
# Reads checkpoints without executing anything in them; trains and tests.
runner_type = 'ContrastivePretrainRunner'
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    # gloo is used where there is no GPU. A process that waits for another one for more
    # than `timeout` seconds ends the job: half an hour, PyTorch's own for gloo, is more
    # than a first checkpoint, a validation or a start of data workers takes.
    dist_cfg=dict(backend='nccl', timeout=1800),
)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(
    type='SegLocalVisualizer', vis_backends=vis_backends, name='visualizer'
)
log_processor = dict(by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=0)
tta_model = dict(type='SegTTAModel')
