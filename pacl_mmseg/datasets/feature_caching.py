"""Writing a feature cache; :class:`CachedFeatures` is what reads it."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from mmengine.utils import ProgressBar
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, get_worker_info

from pacl_mmseg.datasets.counts import REASONS, sample_counts
from pacl_mmseg.datasets.draws import seeded
from pacl_mmseg.datasets.feature_cache import (
    META,
    SAMPLES,
    TEXTS_PER_FILE,
    VERSION,
    find_difference,
    identity_hash,
    model_identity,
    pack_tokens,
    read_meta,
    source_identity,
    split_pipeline,
    unpack_tokens,
)
from pacl_mmseg.registry import DATASETS, TRANSFORMS

DTYPES = ('bfloat16', 'float16', 'float32', 'int8')


@dataclass(frozen=True)
class CachingSummary:
    """What :func:`cache_features` wrote.

    Args:
        root (Path): The folder.
        samples (int): Images in the cache.
        skipped (int): Images of the source that could not be used.
        reasons (str): Why, as ``'4 corrupt image, 1 missing file'``.
        texts (int): Different texts.
        written (int): Images encoded now; the others were there already.
        size (int): Bytes of all files.
        error (float): Root mean square error of the stored tokens, relative to the
            root mean square of what the encoder gave.
        worst_error (float): The same of the worst single token.
        dtype (str): How tokens are stored.
    """

    root: Path
    samples: int
    skipped: int
    reasons: str
    texts: int
    written: int
    size: int
    error: float
    worst_error: float
    dtype: str

    def __str__(self) -> str:
        skipped = f' ({self.reasons})' if self.skipped else ''
        return (
            f'{self.root}: {self.samples:,} images ({self.written:,} encoded now) and '
            f'{self.texts:,} texts in {format_bytes(self.size)}; {self.skipped:,} '
            f'images skipped{skipped}\n'
            f'{self.dtype} changes the tokens by {self.error:.2e} of their size (root '
            f'mean square), the worst token by {self.worst_error:.2e}'
        )


def format_bytes(size: float) -> str:
    """A number of bytes in words: ``'35.6 GB'``, ``'12 kB'``."""
    for unit, power in (('GB', 9), ('MB', 6)):
        if size >= 10**power:
            return f'{size / 10**power:.1f} {unit}'
    return f'{size / 1000:.0f} kB'


def cache_features(
    model: nn.Module,
    source: Mapping,
    root: str | Path,
    dtype: str = 'bfloat16',
    batch_size: int = 128,
    num_workers: int = 4,
    shard_size: int = 1024,
    overwrite: bool = False,
    report: Callable[[str], None] = print,
) -> CachingSummary:
    """Encode all images and texts of a dataset once, for training from them.

    Images go through the transforms of the source's pipeline and the model's own data
    preprocessor, as in training. The encoders run in their own precision (their
    ``dtype``), without autocast, whatever the config trains with. Of texts every one is
    encoded that ``PickCaption`` and ``NounPrompt`` could draw.

    Files are written under a temporary name and renamed once complete, and those that
    are there already are kept if they belong to the same cache and are undamaged. So
    started again, a run goes on where it was, and a damaged cache is repaired. Images
    and captions that changed under the same names are not noticed: use ``overwrite``.

    Args:
        model (nn.Module): The segmentor that is to be trained, on any device.
        source (Mapping): Config of a map-style image-text dataset with its pipeline.
        root (str | Path): Folder for the cache; made if need be.
        dtype (str): How tokens are stored: ``'bfloat16'``, the precision that encoders
            run in on a GPU, ``'float16'``, ``'float32'``, or ``'int8'``, half of 16
            bits with a larger error. It is measured and noted in any case.
        batch_size (int): Images encoded at once.
        num_workers (int): Processes that load images; 0 loads them in this one.
        shard_size (int): Images per file, and so the most that a stopped run loses.
        overwrite (bool): Replace whatever cache is there.
        report (Callable): Takes a line for the user.

    Returns:
        CachingSummary: What was written.

    Raises:
        ValueError: If an option is bad, the image transforms draw random numbers,
            images differ in size, tokens are not finite, no image can be used, or the
            folder has a cache that was made with something else.
        TypeError: If a transform of the source does not take its arguments.
        OSError: If the disk has not enough space, at once or by and by.
        RuntimeError: If another process writes the same cache.
    """
    if dtype not in DTYPES:
        raise ValueError(f'dtype must be one of {DTYPES}, not {dtype!r}')
    if batch_size < 1 or shard_size < 1 or num_workers < 0:
        raise ValueError('batch_size and shard_size must be positive')
    identity = {**model_identity(model), **source_identity(source)}
    root = Path(root).expanduser()
    root.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(root / '.lock', timeout=0):
            writer = _Writer(model, source, root, dtype, identity, shard_size)
            device = next(model.parameters()).device.type
            with torch.autocast(device, enabled=False):
                return writer.run(batch_size, num_workers, overwrite, report)
    except Timeout as error:
        raise RuntimeError(
            f'Another process is writing {root}: wait for it.'
        ) from error


def check_source(source: Mapping, root: str | Path, overwrite: bool = False) -> None:
    """Look at the data before the encoders are built, which may fetch their weights.

    Where ``root`` has tokens already, images may not be needed, and are not looked at.

    Args:
        source, root, overwrite: As for :func:`cache_features`.

    Raises:
        ValueError, TypeError, OSError: As :func:`cache_features` does for the source.
    """
    source_identity(source)
    images = _SourceImages(source)
    found = any(Path(root).expanduser().glob('tokens-*.safetensors'))
    if overwrite or not found:
        images.first_usable()


class _Writer:
    """One run of :func:`cache_features`, which documents the arguments."""

    def __init__(
        self,
        model: nn.Module,
        source: Mapping,
        root: Path,
        dtype: str,
        identity: dict,
        shard_size: int,
    ) -> None:
        self.model = model.eval()
        self.root = root
        self.dtype = dtype
        self.identity = identity
        self.shard_size = shard_size
        self.images = _SourceImages(source)
        content = VERSION, identity, dtype, shard_size, len(self.images)
        self.key = identity_hash(*content)
        self.grid: tuple[int, int] | None = None
        self.num_shards = -(-len(self.images) // shard_size)

    def run(
        self,
        batch_size: int,
        num_workers: int,
        overwrite: bool,
        report: Callable[[str], None],
    ) -> CachingSummary:
        if overwrite:
            self.images.first_usable()  # or nothing may be lost
            features = [*self._glob('tokens-*'), *self._glob('texts-*')]
            for path in [self.root / META, self.root / SAMPLES, *features]:
                path.unlink(missing_ok=True)
        self._refuse_another_cache()
        (self.root / META).unlink(missing_ok=True)  # nothing is complete from here on
        for path in self.root.glob('*.safetensors.part'):
            path.unlink()
        if found := self._glob('tokens-*'):
            report(f'Checking {len(found)} files that are there already')
        kept = {
            shard
            for shard in range(self.num_shards)
            if self._is_sound(self._token_file(shard), self.key)
        }
        todo = [
            list(range(start, min(start + self.shard_size, len(self.images))))
            for start in range(0, len(self.images), self.shard_size)
            if start // self.shard_size not in kept
        ]
        written = 0
        if todo:
            if found:
                report(f'{len(kept)} of {self.num_shards} files are kept')
            self._check_space(sum(map(len, todo)), report)
            written = self._write_tokens(todo, batch_size, num_workers)
        return self._finish(written, report)

    # --------------------------------------------------------- what is there already

    def _refuse_another_cache(self) -> None:
        tokens = self._glob('tokens-*')
        if {_read_notes(path).get('key') for path in tokens} <= {self.key, None}:
            return  # this one, or damaged
        try:
            stored = read_meta(self.root)
        except (FileNotFoundError, ValueError):
            stored = None
        difference = stored and find_difference(stored['identity'], self.identity)
        other = (
            f'made with {difference[0]}, not with {difference[1]}'
            if difference
            else 'of other data or settings, such as dtype or shard size'
        )
        raise ValueError(
            f'{self.root} has features {other}: give --overwrite to replace them, or '
            'another folder with --out.'
        )

    def _glob(self, pattern: str) -> list[Path]:
        return sorted(self.root.glob(f'{pattern}.safetensors'))

    def _is_sound(self, path: Path, key: str) -> bool:
        """Whether a file belongs to this cache and holds what was written."""
        notes = _read_notes(path)
        try:
            return notes.get('key') == key and notes['digest'] == _digest(
                load_file(path)
            )
        except (SafetensorError, OSError):
            return False

    def _check_space(self, images: int, report: Callable[[str], None]) -> None:
        """Say how much space is needed, and refuse to start if it is not there."""
        sample = self.images.first_usable()
        tokens = self._encode(sample['image'][None])
        per_image = sum(_nbytes(pack_tokens(tokens, self.dtype)))
        captions = len(sample['captions'])
        # Noun prompts are not counted: their number shows only at the end, and they
        # are few beside the captions, let alone the tokens.
        dims = self.model.decode_head.text_encoder.embed_dims
        texts = len(self.images) * captions * dims * 4
        needed, free = images * per_image + texts, shutil.disk_usage(self.root).free
        estimate = (
            f'{images:,} images need about {format_bytes(needed)} in {self.root} '
            f'({format_bytes(per_image)} each), where {format_bytes(free)} are free'
        )
        if needed > free:
            raise OSError(
                f'{estimate}: give another disk with --out'
                + (', or --dtype int8.' if self.dtype != 'int8' else '.')
            )
        report(estimate)

    # ----------------------------------------------------------------------- writing

    @torch.inference_mode()
    def _encode(self, images: Tensor) -> Tensor:
        """Images, uint8 ``(n, 3, H, W)``, BGR, to tokens ``(n, T, C)``."""
        samples = dict(captions=[''] * len(images))
        batch = dict(inputs=images, data_samples=samples)
        inputs = self.model.data_preprocessor(batch, training=True)['inputs']
        (output,) = self.model.backbone(inputs)
        maps, cls = output if isinstance(output, (list, tuple)) else (output, None)
        grid = tuple(maps.shape[-2:])
        if self.grid not in (None, grid):
            raise ValueError(_sizes_differ())
        self.grid = grid
        tokens = maps.flatten(2).transpose(1, 2)
        return tokens if cls is None else torch.cat([cls[:, None], tokens], dim=1)

    def _write_tokens(
        self, shards: Sequence[list[int]], batch_size: int, num_workers: int
    ) -> int:
        batches = [  # each within one shard
            shard[start : start + batch_size]
            for shard in shards
            for start in range(0, len(shard), batch_size)
        ]
        loader = DataLoader(
            self.images,
            batch_sampler=batches,
            num_workers=num_workers,
            collate_fn=_collate,
            pin_memory=torch.cuda.is_available(),
        )
        progress = ProgressBar(sum(map(len, shards)), file=sys.stderr)
        parts: list[dict[str, Tensor]] = []
        records: list[dict] = []
        error = np.zeros(3)  # squared error, squared size, worst relative square
        skipped: Counter[str] = Counter()
        written = 0
        for indices, (images, found, reasons) in zip(batches, loader, strict=True):
            if found:
                tokens = self._encode(images).float()
                packed = pack_tokens(tokens, self.dtype)
                self._check_finite(packed)
                error = _add_error(error, tokens, packed)
                parts.append({name: part.cpu() for name, part in packed.items()})
                records += found
                written += len(found)
            skipped.update(reasons)
            progress.update(len(indices))
            shard, last = divmod(indices[-1], self.shard_size)
            if last == self.shard_size - 1 or indices[-1] == len(self.images) - 1:
                self._write_shard(shard, parts, records, error, skipped)
                parts, records, error, skipped = [], [], np.zeros(3), Counter()
        sys.stderr.write('\n')
        return written

    def _check_finite(self, packed: Mapping[str, Tensor]) -> None:
        if not all(tensor.isfinite().all() for tensor in packed.values()):
            hint = ', or give --dtype bfloat16' if self.dtype == 'float16' else ''
            raise ValueError(
                'The vision encoder gives tokens that are not finite, or too large for '
                f'{self.dtype}: check its weights and precision{hint}.'
            )

    def _write_shard(
        self,
        shard: int,
        parts: Sequence[dict[str, Tensor]],
        records: Sequence[dict],
        error: np.ndarray,
        skipped: Mapping[str, int],
    ) -> None:
        names = parts[0] if parts else ()
        tensors = {name: torch.cat([part[name] for part in parts]) for name in names}
        text = json.dumps(records).encode()
        tensors['records'] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        grid = self.grid if records else None
        notes = dict(
            samples=len(records), error=error.tolist(), grid=grid, skipped=skipped
        )
        self._save(self._token_file(shard), tensors, self.key, notes)

    def _token_file(self, shard: int) -> Path:
        return self.root / f'tokens-{shard:05d}.safetensors'

    def _save(
        self, path: Path, tensors: dict[str, Tensor], key: str, notes: Mapping
    ) -> None:
        metadata = dict(key=key, digest=_digest(tensors), notes=json.dumps(notes))
        self._write(path, save(tensors, metadata))

    def _write(self, path: Path, content: bytes) -> None:
        """Write a file whole or not at all."""
        part = path.with_name(f'{path.name}.part')
        try:
            with part.open('wb') as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise OSError(
                f'{path} could not be written ({error}), with '
                f'{format_bytes(shutil.disk_usage(self.root).free)} free there; '
                f'{len(self._glob("tokens-*"))} of {self.num_shards} files of tokens '
                'are finished and kept: make room and run this again (without '
                '--overwrite).'
            ) from error

    # --------------------------------------------------------------------- finishing

    def _finish(self, written: int, report: Callable[[str], None]) -> CachingSummary:
        """Encode the texts, and write what holds all together."""
        paths = [self._token_file(shard) for shard in range(self.num_shards)]
        notes = [json.loads(_read_notes(path)['notes']) for path in paths]
        samples = [note['samples'] for note in notes]
        skipped = sum((Counter(note['skipped']) for note in notes), Counter())
        reasons = _in_words(skipped)
        if not sum(samples):
            raise ValueError(self.images.nothing_usable(reasons))
        index = _TextIndex(self.identity['texts']['nouns'])
        for path in paths:
            for record in json.loads(load_file(path)['records'].numpy().tobytes()):
                index.add(record)
        grids = {tuple(note['grid']) for note in notes if note['samples']}
        if len(grids) > 1:
            raise ValueError(_sizes_differ())
        texts = self._write_texts(list(index.texts), report)
        arrays = {name: torch.from_numpy(a) for name, a in index.arrays().items()}
        self._save(self.root / SAMPLES, arrays, self.key, {})
        squares = np.array([note['error'] for note in notes])
        error, worst = _relative_error(squares)
        files = [
            dict(name=path.name, samples=count, bytes=path.stat().st_size)
            for path, count in zip(paths, samples, strict=True)
        ]
        files += [
            dict(name=path.name, bytes=path.stat().st_size)
            for path in [*texts, self.root / SAMPLES]
        ]
        meta = dict(
            version=VERSION,
            identity=self.identity,
            dtype=self.dtype,
            grid=next(iter(grids)),
            samples=sum(samples),
            skipped=skipped,  # by reason
            texts=len(index.texts),
            relative_error=error,
            worst_relative_error=worst,
            files=files,
        )
        self._write(self.root / META, json.dumps(meta, indent=1).encode())
        return CachingSummary(
            root=self.root,
            samples=sum(samples),
            skipped=skipped.total(),
            reasons=reasons,
            texts=len(index.texts),
            written=written,
            size=sum(file['bytes'] for file in files),
            error=error,
            worst_error=worst,
            dtype=self.dtype,
        )

    @torch.inference_mode()
    def _write_texts(
        self, texts: list[str], report: Callable[[str], None]
    ) -> list[Path]:
        encoder = self.model.decode_head.text_encoder
        groups = [
            texts[start : start + TEXTS_PER_FILE]
            for start in range(0, len(texts), TEXTS_PER_FILE)
        ]
        paths = [
            self.root / f'texts-{number:05d}.safetensors'
            for number in range(len(groups))
        ]
        keys = [identity_hash(self.key, group) for group in groups]
        todo = [
            job
            for job in zip(paths, groups, keys, strict=True)
            if not self._is_sound(job[0], job[2])
        ]
        for path in set(self._glob('texts-*')) - set(paths):
            path.unlink()
        if todo:
            count = sum(len(group) for _, group, _ in todo)
            report(f'Encoding {count:,} of {len(texts):,} different texts')
            progress = ProgressBar(count, file=sys.stderr)
        for path, group, key in todo:
            parts = []
            for start in range(0, len(group), 4 * encoder.batch_size):
                part = group[start : start + 4 * encoder.batch_size]
                parts.append(encoder(part).float().cpu())
                progress.update(len(part))
            self._save(path, dict(embeddings=torch.cat(parts)), key, {})
        if todo:
            sys.stderr.write('\n')
        return paths


class _SourceImages(Dataset):
    """The images of a source, as they are encoded, with all texts that may be drawn.

    An item is a dict of ``image`` (uint8, 3 x H x W, BGR) and what :class:`_TextIndex`
    takes, or, if its image or all of its captions cannot be used, the reason.
    """

    def __init__(self, source: Mapping) -> None:
        images, pick, nouns = split_pipeline(source.get('pipeline', ()))
        self.dataset = DATASETS.build(dict(source, pipeline=images))
        if not hasattr(self.dataset, 'prepare_data'):
            raise ValueError(
                f'{type(self.dataset).__name__} has no random access: a feature cache '
                'is made from a dataset such as CocoCaptionsDataset.'
            )
        self.dataset.full_init()
        self.pick = TRANSFORMS.build(dict(pick, type='PickCaption')) if pick else None
        self.nouns = TRANSFORMS.build(dict(nouns, type='NounPrompt')) if nouns else None
        self.counts = sample_counts  # shared with the workers

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict | str:
        before = self._own_counts().clone()
        item = self._load(index)
        if item is not None:
            return item
        more = (self._own_counts() > before).tolist()
        counted = [name for name, is_more in zip(REASONS, more, strict=True) if is_more]
        # Reasons to skip come before those to convert.
        return next(iter(counted), 'dropped by the pipeline').replace('_', ' ')

    def _own_counts(self) -> Tensor:
        """The counts of this process, which loads one image at a time."""
        worker = get_worker_info()
        return self.counts.table[0 if worker is None else 1 + worker.id]

    def _load(self, index: int) -> dict | None:
        results = self.dataset.prepare_data(index)
        if results is None:
            return None
        if 'img' not in results:
            raise ValueError(
                'The pipeline of the source loads no image: put LoadPILImage into it.'
            )
        image = np.ascontiguousarray(results.pop('img').transpose(2, 0, 1))
        captions, nouns = self._texts(results)
        if not captions:
            return None
        return dict(
            image=torch.from_numpy(image),
            path=str(results.get('img_path', index)),
            captions=captions,
            nouns=nouns,
        )

    def first_usable(self) -> dict:
        """The first item that can be used; leaves the counts as they were.

        Raises:
            ValueError: There is none, or the image's transforms draw random numbers.
        """
        counts = self.counts.table.clone()
        try:
            return self._first_usable()
        finally:
            self.counts.table.copy_(counts)

    def _first_usable(self) -> dict:
        reasons: Counter[str] = Counter()
        for index in range(len(self)):
            item = self[index]
            if isinstance(item, dict):
                break
            reasons[item] += 1
        else:
            raise ValueError(self.nothing_usable(_in_words(reasons)))
        with seeded(0):
            before = _random_state()
            self.dataset.prepare_data(index)
            if _random_state() != before:
                raise ValueError(
                    'The image transforms of the source draw random numbers, but a '
                    'cache holds one view of each image: take out augmentations, and '
                    "give CLIPResizeCrop crop='center'."
                )
        return item

    def nothing_usable(self, reasons: str) -> str:
        return (
            f'None of the {len(self):,} images of the source could be used '
            f'({reasons}): check where they are.'
        )

    def _texts(self, results: dict) -> tuple[list[str], list[list[str]]]:
        """All captions that may be drawn, cleaned, and the nouns of each."""
        if self.pick is None:
            captions = [results['caption']] if results.get('caption') else []
        else:
            given = results.get('captions') or [results.get('caption')]
            picked = (self.pick.transform(dict(captions=[text])) for text in given)
            captions = [result['caption'] for result in picked if result is not None]
        nouns: list[list[str]] = [[] for _ in captions]
        if self.nouns is not None:
            nouns = [self.nouns.find_nouns({**results, 'caption': c}) for c in captions]
        return captions, nouns


class _TextIndex:
    """Numbers all different texts, and says which belong to which image."""

    def __init__(self, nouns: Mapping | None) -> None:
        self.templates = nouns['templates'] if nouns else []
        self.texts: dict[str, int] = {}
        self.paths: list[str] = []
        self.nouns: dict[str, int] = {}
        self.noun_prompts: list[list[int]] = []
        self.captions_per_image: list[int] = []
        self.captions: list[int] = []
        self.nouns_per_caption: list[int] = []
        self.noun_ids: list[int] = []

    def add(self, record: Mapping) -> None:
        self.paths.append(record['path'])
        self.captions_per_image.append(len(record['captions']))
        for caption, nouns in zip(record['captions'], record['nouns'], strict=True):
            self.captions.append(self._text(caption))
            self.nouns_per_caption.append(len(nouns))
            self.noun_ids += map(self._noun, nouns)

    def arrays(self) -> dict[str, np.ndarray]:
        """What :class:`CachedFeatures` reads, int64 but for the bytes of strings."""
        prompts = np.array(self.noun_prompts, dtype=np.int64)
        return dict(
            caption_starts=_starts(self.captions_per_image),
            captions=np.array(self.captions, dtype=np.int64),
            noun_starts=_starts(self.nouns_per_caption),
            nouns=np.array(self.noun_ids, dtype=np.int64),
            noun_prompts=prompts.reshape(len(self.nouns), len(self.templates)),
            **_strings('text', list(self.texts)),
            **_strings('path', self.paths),
        )

    def _text(self, text: str) -> int:
        return self.texts.setdefault(text, len(self.texts))

    def _noun(self, noun: str) -> int:
        if noun not in self.nouns:
            self.nouns[noun] = len(self.nouns)
            prompts = [template.replace('{}', noun) for template in self.templates]
            self.noun_prompts.append([self._text(prompt) for prompt in prompts])
        return self.nouns[noun]


def _collate(
    items: Sequence[dict | str],
) -> tuple[Tensor | None, list[dict], list[str]]:
    """Images, what belongs to them, and why the others are skipped."""
    usable = [item for item in items if isinstance(item, dict)]
    reasons = [item for item in items if isinstance(item, str)]
    if not usable:
        return None, [], reasons
    images = [item.pop('image') for item in usable]
    if any(image.shape != images[0].shape for image in images):
        raise ValueError(_sizes_differ())
    return torch.stack(images), usable, reasons


def _in_words(reasons: Counter[str]) -> str:
    return ', '.join(f'{count:,} {why}' for why, count in reasons.most_common())


def _sizes_differ() -> str:
    return (
        'The image transforms of the source give images of different sizes, but a '
        'cache holds as many tokens of each: put CLIPResizeCrop into its pipeline.'
    )


def _starts(counts: Sequence[int]) -> np.ndarray:
    return np.array([0, *accumulate(counts)], dtype=np.int64)


def _strings(kind: str, strings: Sequence[str]) -> dict[str, np.ndarray]:
    encoded = [text.encode(errors='replace') for text in strings]
    content = np.frombuffer(b''.join(encoded), dtype=np.uint8).copy()
    return {
        f'{kind}_bytes': content,
        f'{kind}_starts': _starts([len(text) for text in encoded]),
    }


def _add_error(
    total: np.ndarray, tokens: Tensor, packed: Mapping[str, Tensor]
) -> np.ndarray:
    stored = unpack_tokens(packed, slice(None)).double()
    errors = (stored - tokens).square().sum(-1)
    sizes = tokens.double().square().sum(-1)
    worst = (errors / sizes.clamp(min=1e-30)).max()
    sums = [total[0] + errors.sum().item(), total[1] + sizes.sum().item()]
    return np.array([*sums, max(total[2], worst.item())])


def _relative_error(squares: np.ndarray) -> tuple[float, float]:
    error, size = squares[:, 0].sum(), squares[:, 1].sum()
    return float(np.sqrt(error / max(size, 1e-30))), float(np.sqrt(squares[:, 2].max()))


def _nbytes(tensors: Mapping[str, Tensor]) -> Iterator[int]:
    return (tensor.nbytes for tensor in tensors.values())


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f'{name} {tuple(tensor.shape)}'.encode())
        if tensor.numel():
            digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _read_notes(path: Path) -> dict[str, str]:
    """What :meth:`_Writer._save` noted in a file; {} if there is no readable one."""
    try:
        with safe_open(path, 'pt') as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def _random_state() -> tuple:
    kind, keys, *rest = np.random.get_state()
    numpy_state = (kind, keys.tobytes(), *rest)
    torch_state = torch.get_rng_state().numpy().tobytes()
    return random.getstate(), numpy_state, torch_state
