# Scores averaged over the frames, moved along with optical flow.
_base_ = ['video.py']
model = dict(test_cfg=dict(temporal=dict(weight=0.5, flow='dis')))
