# A vision tower that never saw an image: random weights, the same with every seed.
_base_ = ['batch_64_short.py']
model = dict(encoder=dict(vision=dict(pretrained=None, init_seed=0)))
