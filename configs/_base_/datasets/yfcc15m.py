# YFCC15M: the part of YFCC100M with English texts that CLIP was trained on.
_base_ = ['image_text_shards.py']
num_pairs = 14_829_396  # of the list; what could be downloaded is fewer
train_dataloader = dict(
    dataset=dict(shards='{{$PACL_DATA_ROOT:data}}/yfcc15m/{00000..01482}.tar')
)
