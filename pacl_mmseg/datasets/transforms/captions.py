"""Choosing, cleaning, augmenting and tokenizing captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import ftfy
import numpy as np
from mmcv.transforms import BaseTransform

from pacl_mmseg.datasets.counts import sample_counts
from pacl_mmseg.models.open_clip_model import build_tokenizer, check_named
from pacl_mmseg.prompts import fill_template, get_templates
from pacl_mmseg.registry import TRANSFORMS
from pacl_mmseg.utils.names import check_choice

# open_clip's own tokenizer remembers the tokens of every word it has met, which over
# web captions never ends: it is made to forget them once there are so many, some 30 MB
# a worker.
MAX_WORDS = 200_000


@TRANSFORMS.register_module()
class PickCaption(BaseTransform):
    """Choose one of a sample's captions and clean it, or drop the sample.

    Bytes are decoded as UTF-8, bad ones being replaced; mis-encoded text is
    mended with ``ftfy``; runs of white space become one blank. A caption that is
    then empty is counted and its sample dropped (``None`` is returned). What lies
    behind the first ``8 * max_chars`` characters is not looked at.

    Required keys: ``captions`` (list[str | bytes]) or ``caption``.
    Added keys: ``caption`` (str).

    Args:
        max_chars: Longer captions are cut at a word boundary, and counted.
            The tokenizer cuts to its own length in any case. Defaults to 1000.
        pick: ``'random'``, or ``'first'`` (NMS05). Defaults to ``'random'``.

    Raises:
        ValueError: If ``max_chars`` is not positive, or ``pick`` neither of these.
    """

    def __init__(self, max_chars: int = 1000, pick: str = 'random') -> None:
        check_choice('pick', pick, ('random', 'first'))
        if max_chars < 1:
            raise ValueError(f'max_chars must be positive, got {max_chars}')
        self.max_chars = max_chars
        self.pick = pick
        self.counts = sample_counts

    def transform(self, results: dict) -> dict | None:
        """The sample with its caption, or None."""
        captions = results.get('captions') or [results.get('caption')]
        chosen = 0 if self.pick == 'first' else np.random.randint(len(captions))
        caption = captions[chosen]
        if isinstance(caption, bytes):
            caption = self.counts.decode(caption)
        caption = caption if isinstance(caption, str) else ''
        # Mending takes time, and white space and entities are more than they become.
        rest, caption = caption[8 * self.max_chars :], caption[: 8 * self.max_chars]
        # ftfy has nothing to do in plain ASCII without entities or control characters.
        if not (caption.isascii() and caption.isprintable()) or '&' in caption:
            caption = ftfy.fix_text(caption)
        caption = ' '.join(caption.split())
        if not caption:
            self.counts.add('empty_caption')
            return None
        if len(caption) > self.max_chars or rest:
            self.counts.add('truncated_caption')
            # One character more, so that a word that just fits is kept.
            head, blank, _ = caption[: self.max_chars + 1].rpartition(' ')
            caption = head if blank else caption[: self.max_chars]
        results['caption'] = caption
        return results


@TRANSFORMS.register_module()
class NounPrompt(BaseTransform):
    """Now and then replace the caption by a prompt made of one of its nouns.

    PACL trains on captions and on prompts such as ``a photo of the large dog.``,
    whose nouns are found in the captions with spaCy.

    Nouns that are too long, which take the tokenizer seconds, or that no file could
    hold (halves of a surrogate pair) are counted and passed over.

    Required keys: ``caption``; optional: ``nouns`` (list[str]).
    Modified keys: ``caption``; one without nouns stays as it is.

    Args:
        prob: Probability of a replacement. Defaults to 0.5.
        templates: See
            :func:`pacl_mmseg.prompts.get_templates`. Defaults to ``'pacl7'``.
        nouns: ``'given'`` uses the sample's ``nouns``; ``'auto'`` also finds common
            nouns with spaCy where none are given; ``'chunks'`` finds noun phrases, such
            as ``the big dog``, with spaCy's parser (NMS05). Defaults to ``'auto'``.
        max_chars: Characters that a noun may have. Defaults to 100.

    Raises:
        ValueError: If an argument is not one of the above.
        ImportError: spaCy or its pipeline is not installed; with ``'auto'`` at the
            first caption without given nouns.
    """

    def __init__(
        self,
        prob: float = 0.5,
        templates: str | Sequence[str] = 'pacl7',
        nouns: str = 'auto',
        max_chars: int = 100,
    ) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f'prob must lie between 0 and 1, got {prob}')
        check_choice('nouns', nouns, ('auto', 'given', 'chunks'))
        if max_chars < 1:
            raise ValueError(f'max_chars must be positive, got {max_chars}')
        self.prob = prob
        self.templates = get_templates(templates)
        self.nouns = nouns
        self.max_chars = max_chars
        self.counts = sample_counts
        self._spacy = None
        if nouns == 'chunks' and prob > 0:
            self._spacy = _load_spacy(parser=True)

    def transform(self, results: dict) -> dict:
        """The sample, its caption replaced or not."""
        if np.random.rand() >= self.prob:
            return results
        nouns = self.find_nouns(results)
        if nouns:
            noun = nouns[np.random.randint(len(nouns))]
            template = self.templates[np.random.randint(len(self.templates))]
            results['caption'] = fill_template(template, noun)
        return results

    def find_nouns(self, results: dict) -> list[str]:
        """The nouns that a prompt may be made of, given or of the caption."""
        if self.nouns == 'given' or (self.nouns == 'auto' and 'nouns' in results):
            nouns = results.get('nouns') or []
        else:
            self._spacy = self._spacy or _load_spacy()
            words = self._spacy(results['caption'])
            if self.nouns == 'chunks':
                nouns = [phrase.text.lower() for phrase in words.noun_chunks]
            else:
                nouns = [word.text.lower() for word in words if word.pos_ == 'NOUN']
        usable = [noun for noun in nouns if self._is_usable(noun)]
        if len(usable) < len(nouns):
            self.counts.add('unusable_noun', results.get('img_path'))
        return usable

    def _is_usable(self, noun: str) -> bool:
        try:
            noun.encode()
        except UnicodeEncodeError:
            return False
        return len(noun) <= self.max_chars


@TRANSFORMS.register_module()
class TokenizeCaption(BaseTransform):
    """Tokenize the caption as the text encoder would, but in a data worker.

    Comes after whatever changes the caption.

    Required keys: ``caption``, which stays as it is.
    Added keys: ``text_tokens`` (int64 tensor, context length).

    Args:
        model: An open_clip model name, or an architecture given
            as a dict. ``ContrastivePretrainRunner`` gives that of the model's encoder.

    Raises:
        ValueError: If the model is unknown, or nobody named one.
    """

    encoder_keys, encoder_tower = ('model',), 'text'

    def __init__(self, model: str | Mapping | None = None) -> None:
        check_named(self, model)
        self.tokenizer = build_tokenizer(model)
        self._words: dict[str, str] = getattr(self.tokenizer, 'cache', {})
        self._special = dict(self._words)

    def transform(self, results: dict) -> dict:
        """The sample with its tokens."""
        results['text_tokens'] = self.tokenizer([results['caption']])[0]
        if len(self._words) > MAX_WORDS:
            self._words.clear()
            self._words.update(self._special)
        return results


def _load_spacy(parser: bool = False) -> Callable:
    try:
        import spacy

        unused = ['ner', 'lemmatizer', *([] if parser else ['parser'])]
        return spacy.load('en_core_web_sm', exclude=unused)
    except (ImportError, OSError) as error:
        raise ImportError(
            'NounPrompt finds nouns with spaCy: run `pip install spacy` and `python -m '
            "spacy download en_core_web_sm`, or set its nouns='given' for data that "
            'brings its own nouns, or its prob=0 to train on captions alone.'
        ) from error
