"""From the mapping that `comparison.json` holds to the comparison that the page shows."""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from apical.errors import DataError
from apical.study.comparison.schema import Comparison, first_problem

FORMAT = 1
# The folders of an absolute path: of a whole text or value, where they may hold blanks, and within prose.
_FOLDERS = re.compile(
    r"""(?:(?<=[:='"])|^)(?:~|[A-Za-z]:)?[/\\](?:[^/\\'"\n:]+[/\\])+"""
    r"""|(?<=[\s(,])~?/(?:[^\s/'"]+/)+"""
)


def read(document: Mapping[str, Any] | Comparison) -> Comparison:
    """The comparison that `document` holds.

    Raises:
        DataError: it is not a comparison document, or one of a later format.
    """
    if isinstance(document, Comparison):
        return document
    if not isinstance(document, Mapping) or not document.get("arms"):
        raise DataError(
            "This is not a comparison: it has no 'arms' (the rules that were run). "
            "`apical compare` writes a comparison.json that the page can be made from."
        )
    if document.get("format", FORMAT) != FORMAT:
        raise DataError(
            f"This comparison has format {document['format']!r}; this apical reads format {FORMAT}. "
            "Make the page with the version that wrote it (the document's environment names it)."
        )
    try:
        return Comparison.model_validate({key: value for key, value in document.items() if key != "digest"})
    except ValidationError as error:
        raise DataError(f"This is not a comparison of format {FORMAT}: {first_problem(error)}.") from error


def without_folders(comparison: Comparison) -> Comparison:
    """The comparison with files by their names alone, as a page is sent to readers who do not have its folders."""

    def shown(value: Any) -> Any:
        if isinstance(value, str):
            return _FOLDERS.sub("", value)
        if isinstance(value, Mapping):
            return {key: shown(inner) for key, inner in value.items()}
        return [shown(inner) for inner in value] if isinstance(value, list | tuple) else value

    found: Comparison = Comparison.model_validate(shown(comparison.to_dict()))
    return found


def layer_title(layer: str) -> str:
    """A layer's module path as a reader takes it: "layer 3", but "features.conv1" as it is."""
    return f"layer {layer}" if layer.replace(".", "").isdigit() else layer
