# Scores averaged over the frames, moved along with the scenes' exact flow.
_base_ = ['video.py']
model = dict(test_cfg=dict(temporal=dict(weight=0.5, flow='given')))
