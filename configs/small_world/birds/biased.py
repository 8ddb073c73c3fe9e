# As unbiased.py, but 95 % of the birds that are trained with are on their own place, as
# in WaterBirds.
_base_ = ['unbiased.py']
train_dataloader = dict(dataset=dict(dataset=dict(bias=0.95)))
