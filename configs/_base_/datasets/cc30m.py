# The paper's 30 million pairs: CC3M, CC12M and YFCC15M, mixed by their sizes.
_base_ = ['image_text_shards.py']
num_pairs = 3_318_333 + 12_423_374 + 14_829_396  # of the lists
train_dataloader = dict(
    dataset=dict(
        shards=dict(
            cc3m='{{$PACL_DATA_ROOT:data}}/cc3m/{00000..00331}.tar',
            cc12m='{{$PACL_DATA_ROOT:data}}/cc12m/{00000..01242}.tar',
            yfcc15m='{{$PACL_DATA_ROOT:data}}/yfcc15m/{00000..01482}.tar',
        ),
        # By default every epoch passes through all of them once. Other shares of what
        # is read: `weights=dict(cc3m=1, cc12m=2, yfcc15m=1)`.
    )
)
