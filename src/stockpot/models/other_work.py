"""Models that are made for work that no stream has, and what that work would need."""

from __future__ import annotations

from typing import Any, NamedTuple

from stockpot.models.spec import ModelKind

SUPPORTED = (
    "Supported are classifiers and regressions of images or texts, and language models, causal or with an encoder and "
    "a decoder."
)


class OtherWork(NamedTuple):
    """Work that no stream has."""

    name: str
    needs: str  # the data and the score
    architectures: tuple[str, ...]  # ends of the names of Transformers' classes for it
    mappings: tuple[str, ...] = ()  # Transformers' tables of configurations that have hardly any other use
    instead: str = ""


_WORKS = (
    OtherWork(
        "token classification",
        "a label for every word, and a score of spans such as seqeval's F1",
        ("ForTokenClassification",),
    ),
    OtherWork(
        "extractive question answering",
        "where the answer starts and ends in its context, and a score of spans",
        ("ForQuestionAnswering", "ForMultipleChoice", "ForNextSentencePrediction"),
        instead=" As prompts with completions, a language model learns to answer.",
    ),
    OtherWork(
        "object detection",
        "boxes in every image, and the average precision over their overlaps",
        ("ForObjectDetection",),
        ("MODEL_FOR_OBJECT_DETECTION_MAPPING", "MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING"),
    ),
    OtherWork(
        "segmentation",
        "a class for every pixel, and the overlap of regions (IoU)",
        ("Segmentation", "ForDepthEstimation", "ForMaskGeneration"),
        ("MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING", "MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING"),
    ),
    OtherWork(
        "speech",
        "audio, and the word error rate or a class of each recording",
        (
            "ForCTC",
            "SpeechSeq2Seq",
            "ForAudioClassification",
            "ForAudioFrameClassification",
            "ForXVector",
            "WhisperForConditionalGeneration",
            "Speech2TextForConditionalGeneration",
        ),
        (
            "MODEL_FOR_CTC_MAPPING",
            "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING",
            "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING",
            "MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING",
        ),
    ),
)
_SEEING = OtherWork("texts about images", "images beside the prompts, which no format of text has", ())


def other_work(config: Any, kind: ModelKind) -> str | None:
    """Why a model of this configuration is not for a stream: the work that its architecture names; None: it may be.

    Where the configuration names no architecture, its model type decides, if Transformers has no other use for it.
    """
    named: list[str] = list(getattr(config, "architectures", None) or [])
    for work in _WORKS:
        if any(name.endswith(work.architectures) for name in named):
            return _reason(named[0], work)
    if kind != "image" and getattr(config, "vision_config", None) is not None:
        return _reason((named or [config.model_type])[0], _SEEING)
    return None


def work_of_type(config: Any) -> str | None:
    """The same for a configuration that the wanted kind of model does not have: the work that its type is for."""
    import transformers

    for work in _WORKS:
        if any(type(config) in getattr(transformers, table, {}) for table in work.mappings):
            return _reason(config.model_type, work)
    return None


def _reason(model: str, work: OtherWork) -> str:
    return f"{model} is for {work.name}, which is not supported: it would need {work.needs}.{work.instead} {SUPPORTED}"
