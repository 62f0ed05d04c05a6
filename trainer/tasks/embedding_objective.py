"""EmbeddingObjective: the loss of a batch of embeddings, summed over truncated sizes."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import normalize as of_length_1

from trainer.data.batch import Batch
from trainer.errors import InputError
from trainer.tasks import embedding_losses as losses
from trainer.tasks.embedding_settings import SCORED


@dataclass(frozen=True)
class EmbeddingObjective:
    """The options of recipe=sentence_embedding that define its loss."""

    name: str
    """in_batch, triplet, cosine or cosent."""
    group_size: int
    temperature: float
    margin: float | None
    symmetric: bool
    guard: float | None
    """The recipe's false_negative_margin; see `embedding_losses.in_batch`."""
    sizes: Sequence[int]
    """Sizes to which vectors are truncated (Kusupati et al. 2022); empty for the full size."""
    weights: Sequence[float]
    """Weights of the loss at each size; empty if all are 1."""

    def has_loss(self, batch: Batch) -> bool:
        """Whether a flat batch has the scores, or the texts, that the loss needs."""
        if self.name in SCORED or "scores" in batch:
            return self.name in SCORED and "scores" in batch
        return losses.has_role(batch, "negative" if self.name == "triplet" else "positive")

    def loss(self, embeddings: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss (sums, counts) of the vectors [S, D]. Raises InputError for a size above D."""
        vectors = losses.embedded(embeddings, batch, self.group_size)  # type: ignore[arg-type]
        width = embeddings.shape[-1]
        sizes = self.sizes or [width]
        if max(sizes) > width:
            raise InputError(f"recipe.matryoshka: found {max(sizes)}; accepted: at most {width}")
        weights = self.weights or [1.0] * len(sizes)
        parts = [self._at_one_size(vectors.cut(size), batch) for size in sizes]
        total = sum(weight * sums for weight, (sums, _) in zip(weights, parts, strict=True))
        return total, parts[0][1]  # type: ignore[return-value]

    def _at_one_size(self, vectors: losses.Embedded, batch: Batch) -> tuple[Tensor, Tensor]:
        match self.name:
            case "triplet":
                return losses.triplet(vectors, margin=0.5 if self.margin is None else self.margin)
            case "cosine":
                return losses.cosine_error(vectors, batch["scores"])
            case "cosent":
                return losses.cosent(
                    vectors,
                    batch["scores"],
                    temperature=self.temperature,
                    group_size=self.group_size,
                )
        return losses.in_batch(
            vectors,
            temperature=self.temperature,
            margin=self.margin or 0.0,
            symmetric=self.symmetric,
            guard=self.guard,
        )


def shortened(vectors: Tensor, dimensions: int | None, *, normalize: bool) -> Tensor:
    """Truncate vectors [S, D] to `dimensions`, if given. Raises InputError for more than D."""
    if dimensions is None:
        return vectors
    if dimensions > vectors.shape[-1]:
        accepted = f"accepted: at most {vectors.shape[-1]}"
        raise InputError(f"recipe.dimensions: found {dimensions}; {accepted}")
    cut = vectors[:, :dimensions]
    return of_length_1(cut, dim=-1) if normalize else cut
