r"""What docstrings say, in plain text."""

__all__ = ["argument_texts", "bias", "summary"]

import inspect
import re
import unicodedata
from typing import Any

from docstring_parser import parse


def summary(thing: Any) -> str:
    r"""The first sentence of a docstring.

    Example:
        >>> from pyro_vae.models import VAE
        >>> summary(VAE)
        'A latent Gaussian model whose likelihood is parametrised by a network.'
    """
    return _sentence(parse(inspect.getdoc(thing) or "").short_description)


def bias(thing: Any) -> str:
    r"""What the section ``Bias:`` of a docstring says: for what an estimator is biased.

    Example:
        >>> from pyro_vae.objectives import IWAE
        >>> bias(IWAE).partition(";")[0]
        'Unbiased for the bound of K particles'
    """
    found = re.search(r"^Bias:\n((?:[ ]+.*\n)+)", inspect.getdoc(thing) or "", re.MULTILINE)
    return _words(found[1]) if found else ""


def argument_texts(thing: Any) -> dict[str, str]:
    r"""A sentence on each argument that a docstring explains.

    Example:
        >>> from pyro_vae.models import VAE
        >>> argument_texts(VAE)["latents"]
        'The number of latent features D.'
    """
    texts = {}
    for parameter in parse(inspect.getdoc(thing) or "").params:
        for name in parameter.arg_name.split(","):
            texts[name.strip()] = _sentence(parameter.description)
    return texts


def _sentence(text: str | None) -> str:
    plain = re.sub(r"\s*\(default:[^()]*\)|\s*\bDefaults?:.*", "", _words(text or ""))
    return re.split(r"(?<=[.])\s", plain, maxsplit=1)[0]


def _words(text: str) -> str:
    r"""A text without its marks, in one line."""
    plain = re.sub(r":\w+:`([^`]*)`|``([^`]*)``|`([^`]*)`", _role, text)
    return " ".join(plain.split())


def _role(found: re.Match[str]) -> str:
    text = next(group for group in found.groups() if group is not None)
    if found[0].startswith(":math:"):
        return _formula(text)
    return text.removeprefix("~") if found[0].startswith(":") else text


def _formula(text: str) -> str:
    r"""A formula as one would type it: :math:`f_\theta` as f_θ."""
    text = re.sub(r"\\(?:text|mathrm|mathcal|mathbf)\s*\{([^{}]*)\}", r"\1", text)
    return re.sub(r"\\([A-Za-z]+|.)", _symbol, text).replace(" ^", "^")


def _symbol(found: re.Match[str]) -> str:
    name = found[1]
    known = {
        "to": "→",
        "mapsto": "→",
        "geq": "≥",
        "leq": "≤",
        "neq": "≠",
        "in": "∈",
        "sum": "∑",
        "mid": "|",
        "|": "‖",
        ",": " ",
    }
    if name in known:
        return known[name]
    try:
        return unicodedata.lookup(f"GREEK SMALL LETTER {name}")
    except KeyError:
        return name if name.isalpha() or name in "{}" else ""
