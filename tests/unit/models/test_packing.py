"""Packing padded batches and unpacking them, and errors that name the argument."""

import pytest
import torch

from trainer.errors import InputError
from trainer.models.auto import AutoConfig, AutoModelForSequenceClassification
from trainer.models.inputs import Call, flat_inputs
from trainer.models.packing import Layout

IDS = torch.arange(1, 13).view(3, 4)
HOLES = torch.tensor([[0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 1, 0]])


def pack(ids, mask=None, lengths=None, positions=None, keep_first=False):
    call = Call(ids, mask, None, positions, lengths)
    return flat_inputs(call, keep_first=keep_first)


def test_a_full_grid_is_a_view():
    for mask in (None, torch.ones(3, 4), torch.ones(3, 4, dtype=torch.bool)):
        inputs = pack(IDS, mask)
        assert inputs.input_ids.data_ptr() == IDS.data_ptr()
        assert inputs.position_ids.tolist() == [0, 1, 2, 3] * 3
        assert inputs.layout.equal_lengths and inputs.layout.visible_keys is None
        assert torch.equal(inputs.layout.unpack(inputs.input_ids), IDS)


def test_holes_keep_their_columns_as_positions():
    inputs = pack(IDS, HOLES)
    assert inputs.input_ids.tolist() == [2, 4, 5, 6, 7, 8, 11]
    assert inputs.position_ids.tolist() == [1, 3, 0, 1, 2, 3, 2]
    layout = inputs.layout
    assert layout.lengths.tolist() == [2, 4, 1]
    assert layout.first_tokens.tolist() == [0, 2, 6]
    assert layout.cumulative_lengths.tolist() == [0, 2, 6, 7]
    assert torch.equal(layout.unpack(inputs.input_ids), IDS * HOLES)


def test_a_masked_first_column_is_kept_unseen():
    inputs = pack(IDS, HOLES, keep_first=True)
    assert inputs.input_ids.tolist() == [1, 2, 4, 5, 6, 7, 8, 9, 11]
    layout = inputs.layout
    assert layout.visible.tolist() == [False, True, True] + [True] * 4 + [False, True]
    seen = [[0, 1, 1, 0], [1, 1, 1, 1], [0, 1, 0, 0]]
    assert layout.visible_keys.view(3, 4).int().tolist() == seen
    assert torch.equal(layout.unpack(inputs.input_ids), IDS * HOLES)
    right_padded = torch.tensor([[1, 1, 0, 0]] * 3)
    assert pack(IDS, right_padded, keep_first=True).layout.visible is None


def test_grids_go_there_and_back_with_gradients():
    torch.manual_seed(0)
    layout = Layout(torch.tensor([2, 4, 1]), torch.device("cpu"))
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    grid = layout.to_grid(x)
    assert grid.shape == (3, 4, 3)
    assert not grid[0, 2:].any() and not grid[2, 1:].any()
    assert torch.equal(layout.from_grid(grid), x)
    assert torch.autograd.gradcheck(lambda flat: layout.to_grid(flat).square(), (x,))
    assert torch.autograd.gradcheck(
        lambda flat: layout.from_grid(layout.to_grid(flat) * 3).square(), (x,)
    )


def test_attentions_go_to_the_callers_columns():
    layout = pack(IDS, HOLES).layout
    weights = torch.rand(3, 2, 4, 4)
    grid = layout.unpack_attentions(weights)
    assert grid.shape == (3, 2, 4, 4)
    assert torch.equal(grid[0][:, [1, 3]][:, :, [1, 3]], weights[0, :, :2, :2])
    assert torch.equal(grid[1], weights[1])
    seen = HOLES[:, None, :, None] * HOLES[:, None, None, :]
    assert torch.equal(grid != 0, (seen != 0).expand(3, 2, 4, 4))


def test_a_window_counts_the_callers_columns():
    """By brute force over every pair; a slot without any key sees itself."""
    masks = [HOLES, torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [0, 1, 1, 1]])]
    for mask, gaps in zip(masks, (True, False), strict=True):
        layout = pack(IDS, mask).layout
        assert layout.has_gaps == gaps
        for window in (0, 1, 2, 3):
            pairs = layout.visible_pairs(window).expand(3, 1, layout.longest, layout.longest)
            assert pairs.any(-1).all()
            for row, columns in enumerate(c.nonzero().flatten() for c in mask):
                n = len(columns)
                wanted = (columns[:, None] - columns[None]).abs() <= window
                assert torch.equal(pairs[row, 0, :n, :n], wanted), (row, window)
                assert not pairs[row, 0, :n, n:].any()
    flat = pack(torch.arange(6), lengths=torch.tensor([4, 2])).layout
    assert not flat.has_gaps and flat.visible_pairs(3).shape == (2, 1, 1, 4)
    assert flat.visible_pairs(1)[0, 0].int().tolist() == [
        [1, 1, 0, 0],
        [1, 1, 1, 0],
        [0, 1, 1, 1],
        [0, 0, 1, 1],
    ]
    assert pack(IDS).layout.visible_pairs(3) is None


def test_columns_become_places_in_a_sequence():
    columns = torch.tensor([3, 0, 2])
    assert pack(IDS, HOLES).layout.places(columns, -100).tolist() == [1, 0, 0]
    columns = torch.tensor([2, 4, -100])  # a pad, beyond the input, ignored
    assert pack(IDS, HOLES).layout.places(columns, -100).tolist() == [-100] * 3
    flat = pack(torch.arange(6), lengths=torch.tensor([4, 2])).layout
    assert flat.places(torch.tensor([3, 1]), -100).tolist() == [3, 1]
    assert flat.places(torch.tensor([0, 2]), -100).tolist() == [0, -100]


def test_flat_positions_default_to_the_place_in_the_sequence():
    lengths = torch.tensor([3, 1, 2])
    assert pack(torch.arange(6), lengths=lengths).position_ids.tolist() == [0, 1, 2, 0, 0, 1]
    lengths = torch.tensor([2, 2, 2])
    assert pack(torch.arange(6), lengths=lengths).position_ids.tolist() == [0, 1, 0, 1, 0, 1]


@pytest.fixture(scope="module")
def model():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 16, "vocab_size": 20, "max_position_embeddings": 6}
    torch.manual_seed(0)
    config = AutoConfig({"model_type": "bert", **sizes}, {"num_labels": 3})
    return AutoModelForSequenceClassification.from_config(config).eval()


FLAT = {"input_ids": torch.arange(6)}
WRONG = [
    ({"input_ids": IDS.float()}, "input_ids: found torch.float32 (3, 4); accepted: int64 or int32"),
    ({"input_ids": IDS[0]}, "input_ids: found torch.int64 (4,)"),
    ({"input_ids": IDS[:0]}, "at least one token"),
    ({"input_ids": IDS + 10}, "input_ids: found 22; accepted: 0 to 19"),
    ({"input_ids": IDS - 2}, "input_ids: found -1; accepted: 0 to 19"),
    ({"input_ids": torch.ones(2, 7).long()}, "a sequence of 7 tokens; accepted: up to 6"),
    ({"input_ids": IDS, "attention_mask": torch.ones(3, 5)}, "attention_mask: found shape (3, 5)"),
    ({"input_ids": IDS, "attention_mask": HOLES * 0}, "attention_mask: row 0 masks every token"),
    ({"input_ids": IDS, "token_type_ids": IDS[0]}, "token_type_ids: found shape (4,)"),
    ({"input_ids": IDS, "token_type_ids": IDS}, "token_type_ids: found 12; accepted: 0 to 1"),
    ({"input_ids": IDS, "position_ids": IDS}, "position_ids: found 12; accepted: 0 to 5"),
    ({"input_ids": IDS, "position_ids": torch.arange(3)}, "position_ids: found shape (3,)"),
    ({**FLAT, "sequence_lengths": torch.tensor([3, 4])}, "2 lengths that sum to 7; accepted"),
    ({**FLAT, "sequence_lengths": torch.tensor([6, 0])}, "lengths of 1 or more"),
    ({**FLAT, "sequence_lengths": torch.tensor([6.0])}, "sequence_lengths: found torch.float32"),
    ({**FLAT, "sequence_lengths": torch.tensor([6]), "attention_mask": FLAT["input_ids"]},
     "attention_mask: found with sequence_lengths"),
    ({**FLAT, "sequence_lengths": torch.tensor([6]), "position_ids": torch.arange(5)},
     "position_ids: found shape (5,)"),
    ({"input_ids": torch.arange(7), "sequence_lengths": torch.tensor([7])}, "7 tokens; accepted"),
    ({"input_ids": IDS, "labels": torch.tensor([0, 1])}, "labels: found torch.int64 (2,)"),
    ({"input_ids": IDS, "labels": torch.tensor([0, 1, 3])}, "labels: found 3; accepted: 0 to 2"),
    ({"input_ids": IDS, "labels": torch.tensor([0, -1, 2])}, "labels: found -1; accepted: 0 to 2"),
    ({"input_ids": IDS, "labels": torch.ones(3)}, "labels: found shape (3,); accepted: (3, 3)"),
]  # fmt: skip


@pytest.mark.parametrize(("inputs", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_a_wrong_argument_is_named_in_one_line(model, inputs, message):
    with pytest.raises(InputError) as caught:
        model(**inputs)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_family_without_token_types_says_so():
    sizes = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "vocab_size": 20}
    model = AutoModelForSequenceClassification.from_config(
        AutoConfig({"model_type": "distilbert", **sizes})
    )
    with pytest.raises(
        InputError, match="token_type_ids: found .* distilbert model has no token types"
    ):
        model(IDS, token_type_ids=IDS)


def test_ignored_labels_count_nothing(model):
    some = model(IDS, labels=torch.tensor([0, -100, 2])).loss
    both = model(IDS[[0, 2]], labels=torch.tensor([0, 2])).loss
    torch.testing.assert_close(some, both)


def test_return_dict_and_the_configs_defaults(model):
    as_tuple = model(IDS, labels=torch.tensor([0, 1, 2]), return_dict=False)
    assert isinstance(as_tuple, tuple) and len(as_tuple) == 2
    model.config.output_hidden_states = True
    assert len(model(IDS).hidden_states) == 2
    model.config.output_hidden_states = False
    assert model(IDS).hidden_states is None


def test_a_sequence_does_not_see_its_neighbours(model):
    """Bit for bit, if its length is the longest; else up to rounding."""
    ids = torch.tensor([1, 2, 3, 4, 5, 6])
    alone = model(ids[:4], sequence_lengths=torch.tensor([4])).logits
    for neighbour in (ids, ids.flip(0)):
        together = torch.cat([ids[:4], neighbour[:2]])
        logits = model(together, sequence_lengths=torch.tensor([4, 2])).logits
        torch.testing.assert_close(logits[:1], alone)
