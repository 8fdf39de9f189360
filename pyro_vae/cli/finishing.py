r"""What a run that was just made says of itself: figures, pictures, a table."""

__all__ = ["finish"]

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyro_vae.cli.common import note, say, show, show_json

if TYPE_CHECKING:  # importing torch takes seconds, and --help needs none
    from pyro_vae.data import Data
    from pyro_vae.data.dataset import Split
    from pyro_vae.runs import Run


def finish(
    made: "Run",
    data: "Data",
    name: str,
    options: Mapping[str, Any],
    setting: Mapping[str, Any],
    pictures: Sequence[str] = (),
    **scoring: Any,
) -> None:
    r"""Evaluates and draws a run into its folder, and says what came out.

    Arguments:
        made: The run.
        data: Its data.
        name: What the table calls the model.
        options: The command's options.
        setting: Device, seed, inputs and capture, for figures and pictures.
        pictures: The names of the pictures, by default all of a pair's.
        scoring: What only :func:`pyro_vae.cli.scores.score` takes.
    """
    from pyro_vae.cli.pictures import OF_PAIRS, Artist
    from pyro_vae.cli.scores import score

    known: tuple[Split, ...] = ("test", "validation", "train")
    split = next(name for name in known if data.splits[name])
    scores = score(made, data, split, **scoring, **setting)
    made.write("evaluation.json", scores.text)
    assert made.path is not None
    refused = Artist(made, data, split, **setting).draw_all(made.path, pictures or OF_PAIRS)
    if options["json"]:
        show_json(scores.document)
    elif not options["quiet"]:
        title = f"{name} on {data.name}, {split} data"
        best = ", best weights" * (made.weights == "best")
        show(scores.table(title + best), *filter(None, [scores.remark]))
        say(f"Weights, metrics and pictures are in {made.path}")
    if not options["quiet"]:
        for text in refused:
            note(text)
