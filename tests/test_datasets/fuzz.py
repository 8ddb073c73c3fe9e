"""Image-text data damaged at random, and what has to hold for any of it.

``test_fuzz.py`` tries some hundreds in the suite. By hand, thousands:

    python tests/test_datasets/fuzz.py --cases 5000 --seed 1
"""

import argparse
import bz2
import csv
import gzip
import hashlib
import io
import json
import lzma
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from pacl_mmseg.datasets import CaptionListDataset, CocoCaptionsDataset, ImageTextShards
from pacl_mmseg.datasets.counts import REASONS, sample_counts
from pacl_mmseg.datasets.transforms import (
    CLIPResizeCrop,
    LoadPILImage,
    NounPrompt,
    PackImageText,
    PickCaption,
    TokenizeCaption,
    collate_image_text,
)

MODEL = dict(
    embed_dim=24,
    vision_cfg=dict(image_size=32, patch_size=8, width=32, layers=1, head_width=16),
    text_cfg=dict(context_length=16, vocab_size=49408, width=16, heads=2, layers=1),
)
# Small, so that what is beyond them is quickly made.
MAX_PIXELS, MAX_BYTES, MAX_TEXT, MAX_CHARS = 2**18, 2**18, 2**14, 200
PEAK = 64 * 2**20  # of memory beside that of the first, whatever is read
PAIRS = 6
SKIPPED = REASONS[: REASONS.index('converted_image')]


def name_of(index: int) -> str:
    """Names differ in many bits, so that none becomes another's by chance."""
    return hashlib.sha1(f'{index}'.encode()).hexdigest()[:12]


def caption_of(index: int) -> str:
    return f'a dog {name_of(index)} on grass'


def noun_of(index: int) -> str:
    return f'noun{name_of(index)}'


def owner_of(text: str) -> str | None:
    """The name of the pair that a caption is of, if it is one of the originals."""
    for index in range(2 * PAIRS):
        if text in (caption_of(index), f'a {noun_of(index)}.'):
            return name_of(index)
    return None


def pixels(index: int) -> np.ndarray:
    shape = 20 + index, 30, 3
    return np.random.default_rng(index).integers(0, 255, shape, dtype=np.uint8)


def encode(image: Image.Image, kind: str = 'JPEG', **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


JPEGS = [encode(Image.fromarray(pixels(index))) for index in range(2 * PAIRS)]


def members_of(index: int) -> dict[str, bytes]:
    notes = dict(nouns=[noun_of(index)])
    return {
        'jpg': JPEGS[index],
        'txt': caption_of(index).encode(),
        'json': json.dumps(notes).encode(),
    }


def tar_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w') as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def pairs(
    numbers: Iterable[int], changed: Mapping[int, Mapping[str, bytes]] | None = None
) -> dict[str, bytes]:
    changed = changed or {}
    return {
        f'{name_of(index)}.{suffix}': data
        for index in numbers
        for suffix, data in {**members_of(index), **changed.get(index, {})}.items()
    }


# ------------------------------------------------------------------------- damage


def damage(rng: Random, data: bytes, times: int = 3, shift: bool = True) -> bytes:
    """Flip bits, overwrite runs, cut the end off; with ``shift``, also lose or add.

    By no multiple of 512: a tar file that lost whole blocks may be a tar file.
    """
    data = bytearray(data)
    for _ in range(rng.randint(1, times)):
        if not data:
            break
        # Half of the time near the beginning, where headers are.
        place = rng.randrange(min(len(data), rng.choice([64, len(data)])))
        length = rng.choice([1, 3, 17, 300])
        kind = rng.randrange(6 if shift else 4)
        if kind == 0:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[place : place + length] = rng.randbytes(len(data[place:][:length]))
        elif kind == 2:
            data[place : place + length] = bytes(len(data[place:][:length]))
        elif kind == 3 and rng.random() < 0.3:
            del data[place:]
        elif kind == 4:
            del data[place : place + length]
        elif kind == 5:
            data[place:place] = rng.randbytes(length)
    return bytes(data)


PACKERS = dict(gz=gzip.compress, bz2=bz2.compress, xz=lzma.compress)


def odd_image(rng: Random) -> bytes:
    """An image file of any kind: usual, damaged, narrow, large, or none."""
    mode = rng.choice(['RGB', 'L', 'P', 'RGBA', 'LA', 'CMYK', '1', 'I;16', 'F'])
    size = rng.choice(
        [(1, 1), (40, 30), (1, 700), (700, 1), (500, 500), (2000, 2000), (3, 100_000)]
    )
    kind, options = rng.choice(
        [
            ('JPEG', dict()),
            ('JPEG', dict(progressive=True)),
            ('PNG', dict()),
            ('WEBP', dict()),
            ('BMP', dict()),
            ('GIF', dict()),
            *(('TIFF', dict(compression=c)) for c in ('raw', 'tiff_lzw', 'jpeg')),
            *((other, dict()) for other in ('PPM', 'ICO', 'EPS', 'PDF', 'TGA')),
        ]
    )
    if options.get('compression') == 'jpeg':  # Pillow 12 crashes as it writes others
        mode = 'L'
    if size[0] * size[1] > MAX_PIXELS:
        return LARGE.get(kind, LARGE['PNG'])
    try:
        data = encode(Image.new('L', size, 7).convert(mode), kind, **options)
    except (OSError, ValueError, KeyError):  # no such file of that mode
        data = b'no image'
    if progressive := options.get('progressive'):
        scan = data[data.rfind(b'\xff\xda') : -2]
        data = data[:-2] + scan * rng.choice([0, 5, 300 * progressive]) + data[-2:]
    return damage(rng, data) if rng.random() < 0.7 else data


# Their headers alone say that they are too large: the rest is lacking, mostly.
LARGE = {
    kind: encode(Image.new('L', (2000, 2000)), kind)[:4000]
    for kind in ('JPEG', 'PNG', 'GIF', 'WEBP', 'BMP', 'TIFF')
}


def odd_text(rng: Random, index: int) -> dict[str, bytes]:
    """A caption or notes of any kind."""
    text = caption_of(index).encode()
    words = b''.join(b'\xc3\xa9' + rng.randbytes(3) + b' ' for _ in range(2000))
    texts = [
        *(b'', b' \n\t', b'\0' * 50, b'\xff\xfe' + text, '\u202e\u0301'.encode() * 600),
        *(b'x' * (MAX_TEXT + 1), b'&amp;' * 3000, words, '漢'.encode() * 4000),
        *(rng.randbytes(400), damage(rng, text), text.decode().encode('utf-16')),
    ]
    notes = [
        *(b'', b'[]', b'null', b'{"nouns": ["\\ud83d"]}', b'{"nouns": ["\\u0000"]}'),
        json.dumps(dict(nouns=['q' * 5000, noun_of(index)])).encode(),
        json.dumps(dict(nouns=['', 3, None, [], {}], captions=[None, ''])).encode(),
        b'{"nouns": ' + b'[' * 8000 + b']' * 8000 + b'}',
        b'{"captions": ["\\ud83d\\udc00\\udfff", "' + text + b'"]}',
        b'{"n": ' + b'9' * 9000 + b'}',
        b'{"x": "' + b'x' * MAX_TEXT + b'"}',
        damage(rng, json.dumps(dict(nouns=[noun_of(index)])).encode()),
    ]
    if rng.random() < 0.5:
        return dict(txt=rng.choice(texts))
    return dict(json=rng.choice(notes))


def odd_member(rng: Random) -> bytes:
    """Blocks of a tar file that ``tarfile`` would not write: names, sizes, kinds."""
    name = rng.choice(['x.jpg', '../x.jpg', '\udcff.jpg', 'x' * 90 + '.txt', '.', ''])
    info = tarfile.TarInfo(name)
    info.type = rng.choice(
        [
            *(tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE),
            *(tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE, b'?', b'S'),
            *(tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE),
        ]
    )
    data = rng.choice([b'', rng.randbytes(700), b'9' * 600, b'11 path=ab\n' * 50])
    data = rng.choice([data, bytes(3 * 2**20)])
    info.size = rng.choice([0, len(data), len(data), 2**20, 2**33, 2**40])
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    if info.type == b'S':  # a sparse file that claims any size
        block[386:] = bytes(512 - 386)
        block[386:410] = b'00000000000\0' + b'%011o\0' % min(info.size, 8**11 - 1)
        block[483:495] = b'%011o\0' % rng.choice([2**10, 2**32])
        block[148:156] = b' ' * 8
        block[148:156] = b'%06o\0 ' % sum(block)
    return bytes(block) + data + bytes(-len(data) % 512)


# -------------------------------------------------------------------------- cases


def pipeline() -> list:
    def remember(results: dict) -> dict:
        raw = results.get('img_bytes'), results.get('caption')
        return {**results, 'raw': raw}

    def forget(results: dict) -> dict:
        packed = PackImageText()(dict(results))
        kept = {key: results[key] for key in ('raw', 'key', 'ori_shape')}
        return {**packed, **kept}

    return [remember, *STEPS, forget]


STEPS = [
    LoadPILImage(16, max_pixels=MAX_PIXELS, max_bytes=MAX_BYTES),
    PickCaption(max_chars=MAX_CHARS),
    NounPrompt(templates=['a {}.'], nouns='given'),
    CLIPResizeCrop(MODEL, backend='torch'),
    TokenizeCaption(MODEL),
]


def check_sample(sample: dict) -> None:
    """What holds for whatever is delivered."""
    caption = sample['data_samples']['caption']
    assert sample['inputs'].shape == (3, 32, 32)
    assert caption.encode() and len(caption) <= MAX_CHARS + len('a .')
    image, text = sample['raw']
    owners = {owner_of(caption)}
    if isinstance(text, bytes):
        owners.add(owner_of(text.decode(errors='replace')))
    if image in JPEGS:
        owners.add(name_of(JPEGS.index(image)))
    owners.discard(None)
    assert owners <= {sample['key']}, f'{sample["key"]} came with parts of {owners}'
    batch = collate_image_text(
        [{key: sample[key] for key in ('inputs', 'data_samples')}]
    )
    assert len(batch['inputs']) == 1


def skipped() -> int:
    totals = sample_counts.totals()
    return sum(totals[reason] for reason in SKIPPED)


def read_shards(folder: Path, data: bytes, name: str = 'odd.tar') -> set[str]:
    """Read a damaged shard beside an intact one; the pairs of the damaged one."""
    (folder / name).write_bytes(data)
    dataset = ImageTextShards(
        [str(folder / name), str(folder / 'intact.tar')],
        pipeline(),
        repeat=False,
        shuffle_buffer=3,
        max_image_bytes=MAX_BYTES,
        max_text_bytes=MAX_TEXT,
    )
    samples = list(dataset)
    found = Counter(sample['key'] for sample in samples)
    assert max(found.values()) == 1
    for sample in samples:
        check_sample(sample)
    intact = {name_of(index) for index in range(PAIRS, 2 * PAIRS)}
    assert intact <= set(found), 'an intact pair is lacking'
    for sample in samples:
        if sample['key'] in intact:
            index = [name_of(index) for index in range(2 * PAIRS)].index(sample['key'])
            assert sample['raw'] == (JPEGS[index], caption_of(index).encode())
    found = set(found) - intact
    whole = {name_of(index) for index in range(PAIRS)} <= found
    assert whole or skipped(), 'pairs are lacking, and nothing was counted'
    broken = dataset.broken_shards()
    assert broken in ([], [str(folder / name)])
    assert bool(broken) == bool(sample_counts.totals()['broken_shard'])
    return found


def fuzz_tar(rng: Random, folder: Path) -> None:
    read_shards(folder, damage(rng, TAR))


def fuzz_packed_tar(rng: Random, folder: Path) -> None:
    kind = rng.choice(list(PACKERS))
    if rng.random() < 0.1:
        bomb = PACKERS[kind](bytes(2**20)) * 60
        found = read_shards(folder, PACKERS[kind](TAR) + bomb, f'odd.tar.{kind}')
        assert not found
    elif rng.random() < 0.2:  # what was damaged before it was packed
        read_shards(folder, PACKERS[kind](damage(rng, TAR)), f'odd.tar.{kind}')
    else:
        found = read_shards(folder, damage(rng, PACKERS[kind](TAR)), f'odd.tar.{kind}')
        # All or nothing: what is behind a checksum, or a field that says nothing.
        assert len(found) in (0, PAIRS)


def fuzz_members(rng: Random, folder: Path) -> None:
    blocks = tar_of(pairs(range(PAIRS)))
    end = len(blocks.rstrip(b'\0'))
    end += -end % 512
    odd = b''.join(odd_member(rng) for _ in range(rng.randint(1, 3)))
    starts = [blocks.index(name_of(index).encode()) for index in range(1, PAIRS)]
    place = rng.choice([0, end, *starts])
    read_shards(folder, blocks[:place] + odd + blocks[place:end] + bytes(10240))


def fuzz_images(rng: Random, folder: Path) -> None:
    odd = rng.sample(range(PAIRS), 2)
    changed = {index: dict(jpg=odd_image(rng)) for index in odd}
    found = read_shards(folder, tar_of(pairs(range(PAIRS), changed=changed)))
    assert found >= {name_of(index) for index in range(PAIRS) if index not in odd}
    assert len(found) + skipped() == PAIRS


def fuzz_texts(rng: Random, folder: Path) -> None:
    odd = rng.sample(range(PAIRS), 2)
    changed = {index: odd_text(rng, index) for index in odd}
    found = read_shards(folder, tar_of(pairs(range(PAIRS), changed=changed)))
    assert found >= {name_of(index) for index in range(PAIRS) if index not in odd}
    assert len(found) + skipped() == PAIRS


def read_list(kind: type, path: Path, folder: Path, rows: int, **options) -> None:
    try:
        dataset = kind(
            str(path),
            pipeline(),
            data_prefix=dict(img_path=str(folder)),
            serialize_data=False,
            **options,
        )
    except ValueError as error:
        assert str(path) in str(error), error
        return
    samples = [dataset.prepare_data(index) for index in range(len(dataset))]
    delivered = [sample for sample in samples if sample is not None]
    assert len(dataset) <= rows
    assert len(samples) - len(delivered) <= skipped()
    for sample in delivered:
        check_sample(sample)
    if delivered:
        check_sample(dataset[0])


def fuzz_table(rng: Random, folder: Path) -> None:
    suffix, delimiter = rng.choice([('csv', ','), ('tsv', '\t')])
    buffer = io.StringIO()
    quoting = rng.choice([csv.QUOTE_ALL, csv.QUOTE_MINIMAL])
    table = csv.writer(buffer, delimiter=delimiter, quoting=quoting)
    header = rng.random() < 0.5
    if header:
        table.writerow(['path', 'caption'])
    order = [rng.randrange(PAIRS) for _ in range(30)]
    table.writerows([f'{name_of(index)}.jpg', caption_of(index)] for index in order)
    data = bytearray(buffer.getvalue().encode())
    for _ in range(rng.randint(0, 3)):
        data[rng.randrange(len(data))] = rng.choice(b'"\'\t\r\0\xff,;\\')
    if rng.random() < 0.5:
        data = bytearray(damage(rng, bytes(data), shift=False))
    if rng.random() < 0.1:
        data += rng.choice([b'"' * 5000, b'x,' * 90_000, b'a.jpg,"' + b'\n' * 300])
    if rng.random() < 0.1:
        data = bytearray(data.decode(errors='replace').encode('utf-16'))
    path = folder / f'list.{suffix}'
    path.write_bytes(data)
    read_list(
        CaptionListDataset,
        path,
        folder,
        rows=len(data),
        header=header,
    )


def fuzz_coco(rng: Random, folder: Path) -> None:
    content = dict(
        images=[
            dict(id=int(name_of(index), 16), file_name=f'{name_of(index)}.jpg')
            for index in range(PAIRS)
        ],
        annotations=[
            dict(image_id=int(name_of(index), 16), caption=caption_of(index), id=index)
            for index in range(PAIRS)
        ],
    )
    junk = [
        *(None, -1, 1e300, True, 'x', '', [], {}, [[]], '\ud83d', 'a\0b', 'q' * 9000),
        *('http://127.0.0.1:9/x.jpg', 's3://x/y', '/dev/zero', '..', '\n', {'id': 1}),
    ]
    rng.shuffle(junk)  # each once: two of a kind would say that they belong together
    for _ in range(rng.randint(0, 3)):
        part = content[rng.choice(list(content))]
        if not isinstance(part, list) or rng.random() < 0.05:
            content[rng.choice(list(content))] = junk.pop()
            continue
        entry = rng.randrange(len(part)) if part else 0
        if rng.random() < 0.3 or not part or not isinstance(part[entry], dict):
            part.insert(entry, junk.pop())
        elif rng.random() < 0.2:
            part[entry].pop(rng.choice(list(part[entry]) or ['id']), None)
        else:
            part[entry][rng.choice(list(part[entry]) or ['id'])] = junk.pop()
    data = json.dumps(content).encode()
    if rng.random() < 0.2:
        data = damage(rng, data, shift=False)
    path = folder / 'captions.json'
    path.write_bytes(data)
    read_list(CocoCaptionsDataset, path, folder, rows=10**6)


TAR = tar_of(pairs(range(PAIRS)))
KINDS = (
    *(fuzz_tar, fuzz_packed_tar, fuzz_members, fuzz_images, fuzz_texts, fuzz_table),
    fuzz_coco,
)


def peak_memory(anew: bool = False) -> int:
    """The most memory that this process has held, in bytes (Linux)."""
    if anew:
        Path('/proc/self/clear_refs').write_text('5')
    lines = Path('/proc/self/status').read_text().splitlines()
    peak = next(line for line in lines if line.startswith('VmHWM:'))
    return int(peak.split()[1]) * 1024


def run_cases(seed: int, numbers: Iterable[int], folder: Path) -> Iterator[str]:
    """Try some, and yield what kind each was; they depend on their numbers alone."""
    (folder / 'intact.tar').write_bytes(tar_of(pairs(range(PAIRS, 2 * PAIRS))))
    for index in range(PAIRS):
        (folder / f'{name_of(index)}.jpg').write_bytes(JPEGS[index])
    before = peak_memory(anew=True)
    for number in numbers:
        rng = Random(f'{seed} {number}')
        np.random.seed(rng.randrange(2**32))
        sample_counts.reset()
        kind = KINDS[number % len(KINDS)]
        try:
            kind(rng, folder)
            grown = peak_memory() - before
            assert grown < PEAK, f'{grown / 2**20:.0f} MB'
        except Exception as error:
            again = f'python {__file__} --seed {seed} --first {number} --cases 1'
            raise RuntimeError(f'again: {again}') from error
        yield kind.__name__


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--cases', type=int, default=5000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--first', type=int, default=0, help='to repeat one case')
    args = parser.parse_args()
    numbers = range(args.first, args.first + args.cases)
    slowest: dict[str, tuple[float, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        kinds = run_cases(args.seed, numbers, Path(folder))
        for number, kind in zip(numbers, kinds, strict=True):
            taken = time.process_time() - start, number
            slowest[kind] = max(taken, slowest.get(kind, taken))
            start = time.process_time()
    for kind, (seconds, number) in slowest.items():
        print(f'{kind}: slowest {seconds:.2f} s of processor time, case {number}')
    print(f'{args.cases} cases of seed {args.seed}: all held')


if __name__ == '__main__':
    main()
