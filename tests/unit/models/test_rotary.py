"""Rotary positions: norms are kept, products depend only on distances, and the formula holds."""

import torch

from trainer.models.blocks.rotary import angles, rotate


def test_products_depend_on_the_distance_alone():
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 24, dtype=torch.float64)
    products = []
    for start in (0, 5, 900):
        turns = [angles(torch.tensor([start + step]), 8, 10000.0) for step in (0, 7)]
        products.append((rotate(query, turns[0]) * rotate(key, turns[1])).sum())
    torch.testing.assert_close(products[0], products[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(products[0], products[2], rtol=1e-4, atol=1e-4)


def test_each_pair_of_channels_turns_by_its_angle():
    x = torch.randn(3, 2 * 4, dtype=torch.float64)  # two heads of four channels
    positions = torch.tensor([0, 1, 6])
    turned = rotate(x, angles(positions, 4, 100.0)).view(3, 2, 4)
    heads = x.view(3, 2, 4)
    for pair, speed in enumerate((1.0, 100.0**-0.5)):
        complex_in = torch.complex(heads[..., pair], heads[..., pair + 2])
        complex_out = torch.complex(turned[..., pair], turned[..., pair + 2])
        phase = torch.polar(torch.ones(3), positions * speed)[:, None]
        torch.testing.assert_close(complex_out, complex_in * phase, rtol=1e-6, atol=1e-6)
    assert rotate(x.bfloat16(), angles(positions, 4, 100.0)).dtype == torch.bfloat16
