# Conceptual Captions 3M, training split.
_base_ = ['image_text_shards.py']
num_pairs = 3_318_333  # of the list; what could be downloaded is fewer
train_dataloader = dict(
    dataset=dict(shards='{{$PACL_DATA_ROOT:data}}/cc3m/{00000..00331}.tar')
)
