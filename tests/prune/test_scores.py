"""The best scores of all layers together: exact counts, ties in order, what cannot be scored refused."""

from __future__ import annotations

import pytest
import torch

from distlth.prune.mask import Mask
from distlth.prune.scores import keep_best

DENSE = Mask.dense({"z": (2, 2), "a": (1, 2)})


def test_the_best_of_all_layers_are_kept() -> None:
    scores = {"z": torch.tensor([[0.1, 0.9], [0.3, 0.2]]), "a": torch.tensor([[0.8, 0.05]])}
    kept = keep_best(scores, DENSE, 3)
    assert kept["z"].tolist() == [[False, True], [True, False]]
    assert kept["a"].tolist() == [[True, False]]
    assert keep_best(scores, kept, 1)["z"].tolist() == [[False, True], [False, False]]
    assert [keep_best(scores, DENSE, count).kept for count in range(7)] == list(range(7))


def test_among_equals_the_earlier_layer_and_index_goes_first() -> None:
    scores = {name: torch.ones(shape) for name, shape in DENSE.shapes.items()}
    assert keep_best(scores, DENSE, 3)["z"].tolist() == [[False, False], [False, True]]
    assert keep_best(scores, DENSE, 1)["a"].tolist() == [[False, True]]


@pytest.mark.parametrize(
    ("scores", "count", "complaint"),
    [
        ({"z": torch.ones(2, 2), "a": torch.ones(1, 2)}, 7, "cannot keep 7 of 6"),
        ({"z": torch.ones(2, 2), "a": torch.ones(1, 2)}, -1, "cannot keep -1 of 6"),
        ({"z": torch.ones(2, 2)}, 3, "layer 'a' has no score for each weight"),
        ({"z": torch.ones(2, 2), "a": torch.ones(2)}, 3, "layer 'a' has no score for each weight"),
        ({"z": torch.full((2, 2), float("inf")), "a": torch.ones(1, 2)}, 3, "scores of 'z' have NaN or inf"),
    ],
)
def test_what_cannot_be_is_refused(scores: dict[str, torch.Tensor], count: int, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        keep_best(scores, DENSE, count)
