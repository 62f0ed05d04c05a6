"""Choice answers: the probability of each of a sample's choices, and the chosen one."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.tasks.columns import Columns


def num_choices(batch: Any) -> "Tensor":
    """[N] on the CPU, the number of choices of each sample of a flat batch."""
    found: Tensor = batch.host_owners.bincount(minlength=batch.num_samples)
    return found


def choice_predictions(logits: "Tensor", sizes: "Tensor") -> dict[str, "Tensor"]:
    """The index of each sample's best choice, and the probability of every choice [S].

    `logits` [S] are those of all choices; `sizes` [N], on the CPU, is the number of choices of each
    sample.
    """
    import torch

    from trainer.models.packing import Layout

    layout = Layout(sizes, logits.device)
    grid = layout.to_grid(logits.float())
    if layout.visible_keys is not None:
        grid = grid.masked_fill(~layout.visible_keys.view(grid.shape), -torch.inf)
    return {"predictions": grid.argmax(-1), "probabilities": layout.from_grid(grid.softmax(-1))}


def choice_answers(
    columns: "Columns", texts: Callable[[int], list[str] | None]
) -> list[dict[str, Any]]:
    """Answers for the user: the chosen choice and its probability, and all choices' probabilities.

    `texts` returns the choices of a sample.
    """
    all_probabilities = columns["probabilities"].tolist()
    found = []
    for sample, chosen in enumerate(columns["predictions"].tolist()):
        answer: dict[str, Any] = {"choice": chosen, "score": all_probabilities[sample][chosen]}
        choices = texts(sample)
        if choices is not None:
            answer["choice_text"] = choices[chosen]
        answer["choice_probabilities"] = all_probabilities[sample]
        if "references" in columns:
            answer["reference"] = int(columns["references"][sample])
        found.append(answer)
    return found
