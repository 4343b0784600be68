"""The road from data to noise, and roads whose truth is known: one data point, one Gaussian."""

import math

import pytest
import torch

from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.flow import flow_pair, interpolate, logit_normal
from adaln_lab.samplers import SAMPLERS, guided, sample, time_grid


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_road_starts_at_data_ends_at_noise_and_v_is_its_derivative():
    x_0, noise = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64).unbind()
    t = torch.rand(5, dtype=torch.float64)
    assert torch.equal(interpolate(x_0, noise, 0 * t), x_0)
    assert torch.equal(interpolate(x_0, noise, 0 * t + 1), noise)
    step = 1e-4
    slope = (interpolate(x_0, noise, t + step) - interpolate(x_0, noise, t - step)) / (2 * step)
    torch.testing.assert_close(slope, noise - x_0, rtol=0, atol=1e-9)


def test_a_pair_is_consistent_and_drops_the_stated_share_of_labels():
    x_0, y = torch.randn(4000, 1, 2, 2), torch.zeros(4000, dtype=torch.long)
    pair = flow_pair(x_0, y, null=7, drop=0.1, generator=seeded())
    torch.testing.assert_close(pair.x_t - pair.t.view(-1, 1, 1, 1) * pair.v, x_0, rtol=0, atol=1e-5)
    assert set(pair.y.tolist()) == {0, 7}
    assert abs((pair.y == 7).float().mean() - 0.1) < 0.02  # 4 standard deviations
    whole = flow_pair(x_0, y[:, None].repeat(1, 3), 7, 0.5, seeded()).y
    assert ((whole == 7).all(1) | (whole == 0).all(1)).all()  # a caption is dropped whole


def test_times_are_logit_normal():
    t = logit_normal(100_000, seeded())
    logit = t.logit()
    assert abs(logit.mean()) < 0.02
    assert abs(logit.std() - 1) < 0.02
    assert ((t > 0) & (t < 1)).all()


def endpoint(method: str, velocity, x: torch.Tensor, steps: int) -> torch.Tensor:
    times = time_grid(steps).double()
    *_, (t, end) = SAMPLERS[method](lambda x, i: velocity(x, times[i].item()), x, times)
    assert t == 0
    return end


@pytest.mark.parametrize("steps", [1, 7])
def test_euler_is_exact_for_a_single_data_point(steps):
    """Every road to one point is straight, v = (x - point) / t, so even one Euler step arrives."""
    point, noise = torch.randn(2, 3, 4, dtype=torch.float64).unbind()
    torch.testing.assert_close(endpoint("euler", lambda x, t: (x - point) / t, noise, steps), point, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2)])
def test_samplers_converge_to_the_gaussian_flow_with_their_order(method, order):
    """Data N(mu, s^2): v = (x - (1-t) mu) (t - (1-t) s^2) / (t^2 + (1-t)^2 s^2) - mu takes noise z to mu + s z."""
    mu, s = 0.7, 0.4

    def velocity(x, t):
        centred = x - (1 - t) * mu
        return centred * (t - (1 - t) * s**2) / (t**2 + (1 - t) ** 2 * s**2) - mu

    z = torch.linspace(-2, 2, 9, dtype=torch.float64)
    errors = [(endpoint(method, velocity, z, n) - (mu + s * z)).abs().max().item() for n in (64, 128)]
    assert errors[1] < 2e-2 / order**3
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


@pytest.fixture(scope="module")
def model() -> TinyDiT:
    torch.manual_seed(0)
    model = TinyDiT(DiTConfig(width=24, depth=2, heads=2)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.eval()


@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0, 3.0])
def test_guidance_from_the_table_equals_guidance_written_out(model, guidance):
    """All modulation computed once, both halves in one batch: the same velocity as two plain calls."""
    x, y, times = torch.randn(5, 1, 8, 8).double(), torch.tensor([3, 1, 3, 9, 0]), time_grid(4)
    velocity = guided(model, y, times, guidance)
    for i, t in enumerate(times.double()):
        t = t.expand(5)
        v, v_null = model(x, t, y), model(x, t, torch.full_like(y, 10))
        torch.testing.assert_close(velocity(x, i), v_null + guidance * (v - v_null), rtol=0, atol=1e-12)


def test_samples_follow_the_seed_and_not_the_batch(model):
    y = torch.arange(6)
    a = sample(model, y, steps=3, seed=1)
    assert torch.equal(a, sample(model, y, steps=3, seed=1))
    torch.testing.assert_close(a, sample(model, y, steps=3, seed=1, batch=4), rtol=0, atol=1e-12)
    assert not torch.allclose(a, sample(model, y, steps=3, seed=2))
    assert a.abs().max() <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be a whole number in 1 .. 10000, got 0"),
        ({"guidance": -1.0}, "guidance must be a finite number in 0 .. 100"),
        ({"guidance": float("nan")}, "guidance must be a finite number in 0 .. 100"),
        ({"method": "rk4"}, "method must be one of euler, heun"),
        ({"y": torch.tensor([11])}, r"labels must be integers in 0 \.\. 10"),
        ({"y": torch.tensor([-1])}, r"labels must be integers in 0 \.\. 10"),
        ({"y": torch.tensor([0.5])}, r"labels must be integers in 0 \.\. 10"),
    ],
)
def test_wrong_requests_are_refused(model, options, message):
    with pytest.raises(ValueError, match=message):
        sample(model, **{"y": torch.arange(2), **options})
