# Scores averaged over the frames, exponentially, where they are in the picture.
_base_ = ['video.py']
model = dict(test_cfg=dict(temporal=dict(weight=0.5)))
