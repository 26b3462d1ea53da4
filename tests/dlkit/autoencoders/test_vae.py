"""The VAE against exact answers: probabilistic PCA, a linear-Gaussian model, enumeration, and closed-form KLs."""

from __future__ import annotations

import itertools
import math

import lightning as L
import pytest
import torch
from sklearn.decomposition import PCA
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal, Normal, kl_divergence
from torch.nn import functional as F

import dlkit
from datamodules import Digits
from dlkit.batches import Examples
from dlkit.functional.divergences import importance_bound

SHAPE = (1, 8, 8)


def build(latent_dim=3, network="mlp", **arguments):
    return dlkit.VAE(arguments.pop("data_shape", SHAPE), latent_dim, network, hidden_dims=(32,), width=4, **arguments)


def train(vae, batches, steps, learning_rate=1e-2):
    """Adam with a cosine schedule, going round the batches."""
    optimizer = torch.optim.Adam(vae.parameters(), lr=learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _, batch in zip(range(steps), itertools.cycle(batches), strict=False):
        optimizer.zero_grad()
        vae.loss(batch)[0].backward()
        optimizer.step()
        schedule.step()
    return vae


@pytest.fixture
def x():
    return torch.rand(6, *SHAPE)


@pytest.fixture(scope="module")
def digits():
    data = Digits(val_size=0, batch_size=128)
    data.setup()
    return data


@pytest.fixture(scope="module")
def trained():
    """A small Bernoulli VAE after a brief training on binarised digits, and the test's pictures."""
    torch.manual_seed(0)
    data = Digits(val_size=0, binarize="static")
    vae = train(build(latent_dim=8), list(data.batches("train")), 600, 3e-3).eval()
    return vae, torch.cat([batch.x for batch in data.batches("test")])


# A model whose evidence is known: p(z) = N(0, 1), p(x | z) = N(W z + b, s^2) ------------------------------------------


class LinearGaussian:
    """A VAE with hand-set weights, and everything about it in closed form (float64).

    The columns of W are orthogonal, so that the exact posterior has a diagonal covariance, as q has. With `exact` the
    encoder is that posterior; without it the encoder is off in its mean and in its sigma.
    """

    dim, latent_dim, sigma = 5, 2, 0.6

    def __init__(self, exact: bool) -> None:
        generator = torch.Generator().manual_seed(3)
        basis, _ = torch.linalg.qr(torch.randn(self.dim, self.latent_dim, generator=generator, dtype=torch.float64))
        weight = basis * torch.tensor([1.5, 0.8])
        bias = torch.randn(self.dim, generator=generator, dtype=torch.float64)
        precision = torch.eye(self.latent_dim) + weight.T @ weight / self.sigma**2
        self.posterior_covariance = torch.linalg.inv(precision)
        to_mean = self.posterior_covariance @ weight.T / self.sigma**2
        self.posterior_mean = lambda x: (x - bias) @ to_mean.T
        self.evidence = LowRankMultivariateNormal(bias, weight, torch.full((self.dim,), self.sigma**2).double())

        log_sigma = 0.5 * self.posterior_covariance.diagonal().log()
        shrink = 1.0 if exact else 0.7
        if not exact:
            log_sigma = log_sigma + torch.tensor([0.4, -0.3])
        self.encoder_mean = lambda x: shrink * self.posterior_mean(x)
        self.encoder_sigma = log_sigma.exp()

        self.vae = build(self.latent_dim, "linear", data_shape=(self.dim,), likelihood="gaussian", sigma=self.sigma)
        encoder, decoder = self.vae.encoder.head, self.vae.decoder.head
        with torch.no_grad():
            decoder.weight.copy_(weight)
            decoder.bias.copy_(bias)
            encoder.weight.zero_()
            encoder.weight[: self.latent_dim] = shrink * to_mean
            encoder.bias[: self.latent_dim] = -shrink * to_mean @ bias
            encoder.bias[self.latent_dim :] = 7 * torch.atanh(log_sigma / 7)  # undoes the bound of log sigma
        self.x = self.evidence.sample((500,)).float()

    def gap(self):
        """KL[q(z | x) | p(z | x)]: (500,)."""
        x = self.x.double()
        q = MultivariateNormal(self.encoder_mean(x), torch.diag(self.encoder_sigma**2).expand(len(x), -1, -1))
        p = MultivariateNormal(self.posterior_mean(x), self.posterior_covariance.expand(len(x), -1, -1))
        return kl_divergence(q, p)

    def log_prob(self):
        return self.evidence.log_prob(self.x.double())


def test_the_encoder_is_what_it_was_set_to():
    model = LinearGaussian(exact=False)
    mean, log_sigma = model.vae.posterior(model.x)
    torch.testing.assert_close(mean.double(), model.encoder_mean(model.x.double()), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(log_sigma.exp()[0].double(), model.encoder_sigma, atol=1e-5, rtol=1e-5)


def test_with_the_exact_posterior_one_weight_is_the_evidence():
    model = LinearGaussian(exact=True)
    for estimate in (model.vae.log_prob(model.x, num_samples=1), model.vae.log_prob(model.x, num_samples=7)):
        torch.testing.assert_close(estimate.double(), model.log_prob(), atol=2e-4, rtol=1e-5)


@pytest.mark.parametrize(("examples", "num_samples"), [(500, 3), (65, 1), (3, 1001), (40, 50), (1, 64), (64, 1)])
def test_however_log_prob_is_chunked_it_is_the_evidence(examples, num_samples):
    """With the exact posterior every weight is p(x), so each estimate is exact; and no sample is lost or drawn twice."""
    model = LinearGaussian(exact=True)
    model.vae.rows_at_once = lambda: 64
    x, decoded = model.evidence.sample((examples,)).float(), []
    model.vae.decoder.register_forward_hook(lambda module, inputs, output: decoded.append(output.numel() // model.dim))
    estimate = model.vae.log_prob(x, num_samples=num_samples)
    assert sum(decoded) == examples * num_samples
    assert max(decoded) <= 64
    assert estimate.shape == (examples,)
    torch.testing.assert_close(estimate.double(), model.evidence.log_prob(x.double()), atol=5e-4, rtol=1e-5)


def test_chunks_fit_the_cache_of_a_cpu_and_are_larger_elsewhere_without_filling_the_memory():
    for shape, likelihood, on_cpu, elsewhere in [
        ((1, 28, 28), "bernoulli", 510, 4080),
        ((1, 8, 8), "bernoulli", 6250, 6250),
        ((2,), "gaussian", 200_000, 200_000),
        ((3, 16, 16), "bernoulli", 520, 4096),
        ((1, 28, 28), "categorical", 64, 64),
        ((3, 64, 64), "bernoulli", 64, 256),
    ]:
        vae = dlkit.VAE(shape, 2, hidden_dims=(4,), likelihood=likelihood)
        assert (vae.rows_at_once(), vae.to("meta").rows_at_once()) == (on_cpu, elsewhere)


def test_a_chunked_estimate_has_the_distribution_of_one_in_a_piece():
    """300 samples each: for all of them together in twelve chunks, and for each x alone in one."""
    model = LinearGaussian(exact=False)
    model.vae.rows_at_once = lambda: 1000
    x, together, alone = model.x[:40], [], []
    for _ in range(10):
        together.append(model.vae.log_prob(x, num_samples=300))
        alone.append(torch.cat([model.vae.log_prob(x[i : i + 1], num_samples=300) for i in range(40)]))
    difference = torch.stack(together).mean(0) - torch.stack(alone).mean(0)
    error = (torch.stack(together).var(0) / 10 + torch.stack(alone).var(0) / 10).sqrt()
    assert (difference / error).abs().max() < 5
    assert (difference.mean() / error.square().mean().sqrt()).abs() * 40**0.5 < 4


@pytest.mark.parametrize("exact", [True, False])
def test_the_elbo_is_the_evidence_less_the_kl_to_the_exact_posterior(exact):
    """log p(x) - E[ELBO] = KL[q(z | x) | p(z | x)]: nothing for the exact posterior, positive for every other."""
    model = LinearGaussian(exact)
    draws = torch.stack([model.vae.elbo(model.x) for _ in range(2000)]).double()
    error = draws.std(0) / 2000**0.5
    expected = model.log_prob() - model.gap()
    assert ((draws.mean(0) - expected) / error).abs().max() < 5
    assert (model.gap() < 1e-9).all() if exact else (model.gap() > 0.1).all()


def test_log_prob_converges_to_the_exact_evidence_from_below():
    model = LinearGaussian(exact=False)
    errors = []
    for num_samples in (1, 10, 100, 5000):
        errors.append((model.vae.log_prob(model.x, num_samples=num_samples).double() - model.log_prob()).mean().item())
    assert errors == sorted(errors)
    assert errors[0] == pytest.approx(-model.gap().mean().item(), abs=0.2)
    assert abs(errors[-1]) < 0.01


def test_the_weights_average_to_the_evidence():
    """E_q[w] = p(x), which no wrong constant survives."""
    model = LinearGaussian(exact=False)
    x = model.x[:20]
    with torch.no_grad():
        weights = model.vae.log_weights(x, None, 200_000).double().exp()
    assert weights.shape == (200_000, 20)
    error = weights.std(0) / 200_000**0.5
    assert ((weights.mean(0) - model.log_prob()[:20].exp()) / error).abs().max() < 5


@pytest.mark.slow
def test_the_linear_vae_reaches_probabilistic_pca(digits):
    """Tipping and Bishop 1999: the best ELBO of a linear VAE with one sigma is the likelihood that PCA gives."""
    splits = {name: examples.x.float() / 16 for name, examples in digits.splits.items()}
    pca = PCA(8, svd_solver="full").fit(splits["train"].flatten(1).double().numpy())
    vae = train(build(8, "linear", likelihood="gaussian"), [Examples(splits["train"])], 2000)
    for name, published in (("train", 14.54), ("test", 12.54)):
        expected = pca.score(splits[name].flatten(1).double().numpy())
        assert expected == pytest.approx(published, abs=0.01)
        elbo = torch.stack([vae.elbo(splits[name]) for _ in range(50)]).mean().item()
        assert elbo == pytest.approx(expected, abs=0.3)
        assert vae.log_prob(splits[name], num_samples=100).mean().item() == pytest.approx(expected, abs=0.3)
    best = pca.noise_variance_**0.5
    assert vae.loss(Examples(splits["test"]))[1]["sigma"].item() == pytest.approx(best, rel=0.02)


# The bounds ----------------------------------------------------------------------------------------------------------


def test_more_importance_samples_give_a_tighter_bound(trained):
    """L_1 <= L_5 <= L_50 <= log p(x) on average: Burda et al. 2016, theorem 1."""
    vae, x = trained
    bounds = [vae.elbo(x).mean().item()]
    with torch.no_grad():
        for num_samples in (1, 5, 50):
            bounds.append(importance_bound(vae.log_weights(x, None, num_samples)).mean().item())
    bounds.append(vae.log_prob(x, num_samples=1000).mean().item())
    elbo, *rising = bounds
    assert elbo == pytest.approx(rising[0], abs=0.5)  # one sample is the ELBO, with the KL sampled
    assert rising == sorted(rising)
    assert rising[1] - rising[0] > 0.2
    assert rising[2] - rising[1] > 0.1


@pytest.mark.parametrize("num_samples", [2, 7])
def test_the_importance_weighted_loss_is_the_bound(x, num_samples):
    vae = build(importance_samples=num_samples)
    torch.manual_seed(1)
    loss, terms = vae.loss(Examples(x))
    torch.manual_seed(1)
    log_weights = vae.log_weights(x, None, num_samples)
    torch.testing.assert_close(loss, -importance_bound(log_weights).mean())
    torch.testing.assert_close(terms["elbo"], log_weights.mean())
    assert terms["elbo"] < -loss


# The objective -------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_reconstruction_and_the_kl(x):
    """Written out: E_q[log p(x | z)] summed over pixels, the KL over latents, both averaged over the batch."""
    vae = build(beta=0.7)
    torch.manual_seed(1)
    loss, terms = vae.loss(Examples(x))
    mean, log_sigma = vae.posterior(x)
    torch.manual_seed(1)
    z = mean + log_sigma.exp() * torch.randn(6, 3)
    reconstruction = -F.binary_cross_entropy_with_logits(vae.decoder(z), x, reduction="none").flatten(1).sum(1).mean()
    kl = kl_divergence(Normal(mean, log_sigma.exp()), Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(terms["reconstruction"], reconstruction)
    torch.testing.assert_close(terms["kl"], kl)
    torch.testing.assert_close(loss, -reconstruction + 0.7 * kl)


def test_the_kl_is_summed_over_the_latents():
    """A posterior of mean 1 and sigma 1 is 1/2 nat away from the prior in every dimension."""
    for latent_dim in (1, 4, 10):
        vae = build(latent_dim, "linear")
        with torch.no_grad():
            vae.encoder.head.weight.zero_()
            vae.encoder.head.bias.copy_(torch.tensor([1.0] * latent_dim + [0.0] * latent_dim))
        assert vae.loss(Examples(torch.rand(4, *SHAPE)))[1]["kl"].item() == pytest.approx(latent_dim / 2)
        assert torch.equal(vae.kl_per_dimension(torch.rand(4, *SHAPE)), torch.full((4, latent_dim), 0.5))


@pytest.mark.parametrize(
    "arguments",
    [{}, {"likelihood": "gaussian"}, {"likelihood": "categorical", "num_levels": 5}, {"importance_samples": 3}],
    ids=str,
)
def test_the_loss_does_not_depend_on_the_batch_size(arguments):
    """The loss of two batches together is the mean of theirs: here with the same noise for every example."""
    vae = build(**arguments)
    vae.reparameterize = lambda mean, log_sigma: mean + 0.8 * torch.exp(log_sigma)
    first, second = torch.rand(2, 8, *SHAPE)
    losses = [vae.loss(Examples(part))[0] for part in (first, second, torch.cat([first, second]))]
    torch.testing.assert_close(losses[2], (losses[0] + losses[1]) / 2)
    assert abs(losses[0] - losses[1]) > 1e-3 * losses[0].abs()


def test_gradients_flow_through_the_sample():
    """E[(z - 2)^2] for z ~ N(mu, sigma^2) has the gradients 2 (mu - 2) and, for log sigma, 2 sigma^2."""
    vae = build()
    mean = torch.full((400_000, 1), 0.5, requires_grad=True)
    log_sigma = torch.full((400_000, 1), -0.3, requires_grad=True)
    (vae.reparameterize(mean, log_sigma) - 2).square().sum().backward()
    for gradient, expected in ((mean.grad, 2 * (0.5 - 2)), (log_sigma.grad, 2 * math.exp(-0.6))):
        error = gradient.std().item() / 400_000**0.5
        assert gradient.mean().item() == pytest.approx(expected, abs=5 * error)


def test_samples_have_the_posterior_s_mean_and_sigma():
    vae = build()
    z = vae.reparameterize(torch.full((200_000,), 1.5), torch.full((200_000,), math.log(0.2)))
    assert z.mean().item() == pytest.approx(1.5, abs=5 * 0.2 / 200_000**0.5)
    assert z.std().item() == pytest.approx(0.2, abs=5 * 0.2 / 400_000**0.5)


@pytest.mark.parametrize("network", ["linear", "mlp", "conv"])
@pytest.mark.parametrize(
    "arguments",
    [{}, {"likelihood": "gaussian"}, {"likelihood": "gaussian", "sigma": "learned-per-pixel"}, {"num_classes": 4}],
    ids=str,
)
def test_gradients_reach_every_parameter(network, arguments, x):
    vae = build(network=network, **arguments)
    vae.loss(Examples(x, torch.arange(6) % 4))[0].backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_it_overfits_one_batch():
    batch = Examples(torch.rand(8, *SHAPE).round())
    vae = train(build(latent_dim=8), [batch], 1000)
    reconstruction, kl = vae.elbo_terms(batch.x)
    assert reconstruction.mean().item() > -0.03 * 64 * math.log(2)
    # Eight pictures are told apart by log 8 nats, and no code is much shorter.
    assert math.log(8) - 0.1 < kl.sum(1).mean().item() < 20


def test_the_encoder_s_sigma_stays_within_its_bounds():
    vae = build(network="linear")
    with torch.no_grad():
        vae.encoder.head.weight.mul_(1e6)
    x = torch.rand(50, *SHAPE)
    _, log_sigma = vae.posterior(x)
    assert log_sigma.abs().max().item() == pytest.approx(7, abs=1e-4)
    assert vae.kl_per_dimension(x).isfinite().all()


# Likelihoods ---------------------------------------------------------------------------------------------------------


def test_the_best_shared_sigma_is_the_root_of_the_mean_squared_error(x):
    vae = build(likelihood="gaussian")
    z = torch.randn(6, 3)
    with torch.no_grad():
        mse = (x - vae.decoder(z)).square().mean()
        vae.raw_log_sigma.copy_((mse.sqrt() - 1e-3).log())  # sigma = floor + exp(raw)
    log_p = vae.log_likelihood(x, z).sum()
    (gradient,) = torch.autograd.grad(log_p, vae.raw_log_sigma)
    assert abs(gradient.item()) < 1e-3
    torch.testing.assert_close(vae.loss(Examples(x))[1]["sigma"], mse.sqrt())
    with torch.no_grad():
        for factor in (0.9, 1.1, 2**0.5):
            vae.raw_log_sigma.copy_((factor * mse.sqrt() - 1e-3).log())
            assert vae.log_likelihood(x, z).sum() < log_p


def test_sigma_is_learned_from_noise():
    """Noise of .3 around constant pictures: sigma comes out as .3 and the latents go unused."""
    noise = 0.5 + 0.3 * torch.randn(4000, *SHAPE)
    vae = train(build(2, "linear", likelihood="gaussian"), [Examples(part) for part in noise.split(500)], 800)
    assert vae.loss(Examples(noise))[1]["sigma"].item() == pytest.approx(0.3, rel=0.02)


def test_a_fixed_sigma_weighs_the_squared_error(x):
    vae, z = build(likelihood="gaussian", sigma=0.5), torch.randn(6, 3)
    error = (x - vae.decoder(z)).square().flatten(1).sum(1)
    expected = -error / (2 * 0.25) - 64 * math.log(0.5 * math.sqrt(2 * math.pi))
    torch.testing.assert_close(vae.log_likelihood(x, z), expected)
    assert "sigma" not in vae.loss(Examples(x))[1]


def test_a_sigma_for_each_pixel_is_predicted_and_has_a_floor():
    vae = build(likelihood="gaussian", sigma="learned-per-pixel", network="linear", data_shape=(3, 4, 4))
    parameters = torch.randn(5, 6, 4, 4)
    parameters[:, 3:] -= 1000  # an exp() of which is nothing
    mean, log_sigma = vae.split_gaussian(parameters)
    assert torch.equal(mean, parameters[:, :3])
    torch.testing.assert_close(log_sigma, torch.full((5, 3, 4, 4), math.log(1e-3)))
    _, huge = vae.split_gaussian(parameters.abs() + 1e4)
    assert huge.isfinite().all()
    assert vae.decode(torch.randn(5, 3)).shape == (5, 3, 4, 4)


def test_constant_pixels_do_not_drive_the_likelihood_to_infinity():
    """Half of the pixels are always 0: their sigma goes to the floor and no further."""
    x = torch.rand(500, *SHAPE)
    x[:, :, :4] = 0
    vae = train(build(2, "mlp", likelihood="gaussian", sigma="learned-per-pixel"), [Examples(x)], 600)
    z = vae.encode(x)
    _, log_sigma = vae.split_gaussian(vae.decoder(z))
    assert log_sigma.min() >= math.log(1e-3)
    assert log_sigma[:, :, :4].exp().mean() < 0.05 < 0.2 < log_sigma[:, :, 4:].exp().mean() < 0.4
    assert vae.elbo(x).max() < 64 * -math.log(1e-3 * math.sqrt(2 * math.pi))


def test_the_categorical_likelihood_sums_to_one_over_all_pictures():
    vae = build(network="mlp", data_shape=(1, 2, 2), likelihood="categorical", num_levels=4)
    pictures = torch.tensor(list(itertools.product(range(4), repeat=4))).view(-1, 1, 2, 2) / 3
    z = torch.randn(1, 3).expand(len(pictures), 3)
    assert vae.log_likelihood(pictures, z).exp().sum().item() == pytest.approx(1, abs=1e-5)
    several = vae.log_likelihood(pictures, torch.randn(5, 1, 3).expand(5, len(pictures), 3))
    torch.testing.assert_close(several.exp().sum(1), torch.ones(5))


@pytest.mark.parametrize("shape", [(2, 2, 2), (3,)], ids=str)
def test_levels_of_several_channels_are_kept_apart(shape):
    """log p is the sum over elements of the logits' own level, channel by channel."""
    vae = build(network="mlp", data_shape=shape, likelihood="categorical", num_levels=3)
    x = torch.randint(0, 3, (5, *shape)) / 2
    z = torch.randn(5, 3)
    logits = vae.decoder(z).unflatten(1, (3, shape[0]))
    expected = torch.zeros(5)
    for index in itertools.product(*map(range, shape)):
        log_p = logits[(slice(None), slice(None), *index)].log_softmax(1)
        levels = (2 * x[(slice(None), *index)]).long()
        expected += log_p[torch.arange(5), levels]
    torch.testing.assert_close(vae.log_likelihood(x, z), expected)
    mean = (logits.softmax(1) * torch.tensor([0, 0.5, 1]).view(1, 3, *[1] * len(shape))).sum(1)
    torch.testing.assert_close(vae.decode(z), mean)


def test_the_bernoulli_likelihood_sums_to_one_over_all_pictures():
    vae = build(network="mlp", data_shape=(1, 2, 4))
    pictures = torch.tensor(list(itertools.product([0.0, 1.0], repeat=8))).view(-1, 1, 2, 4)
    log_p = vae.log_likelihood(pictures, torch.randn(1, 3).expand(len(pictures), 3))
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "categorical"])
def test_what_is_decoded_is_the_mean_of_the_likelihood(likelihood, x):
    vae = build(likelihood=likelihood, num_levels=5)
    decoded = vae.decode(torch.randn(6, 3))
    assert decoded.shape == (6, *SHAPE)
    if likelihood != "gaussian":
        assert 0 < decoded.min() < decoded.max() < 1


@pytest.mark.parametrize("likelihood", ["bernoulli", "categorical"])
@pytest.mark.parametrize(("value", "span"), [(-0.5, "-0.5, 0.25"), (255.0, "0.25, 255")])
def test_values_outside_zero_and_one_are_refused(likelihood, value, span):
    vae = build(likelihood=likelihood, num_levels=5)
    x = torch.full((4, *SHAPE), 0.25)
    x[1, 0, 2, 3] = value
    message = rf"^likelihood='{likelihood}' is for values in \[0, 1\] and the data spans \[{span}\]: rescale it, or use"
    for call in (lambda: vae.loss(Examples(x)), lambda: vae.elbo(x), lambda: vae.log_prob(x)):
        with pytest.raises(ValueError, match=message):
            call()


def test_the_gaussian_likelihood_takes_any_value():
    vae, x = build(likelihood="gaussian"), 100 * torch.randn(4, *SHAPE)
    assert vae.loss(Examples(x))[0].isfinite()
    assert vae.log_prob(x, num_samples=5).isfinite().all()


# Options of the objective --------------------------------------------------------------------------------------------


class Weights(L.Callback):
    """Notes the weight of the KL at every training step and in validation."""

    def __init__(self):
        self.training, self.validation = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.training.append(pl_module.kl_weight())

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.validation.append(pl_module.kl_weight())


def test_the_kl_warms_up_under_a_trainer_and_never_in_evaluation():
    weights, vae = Weights(), build(beta=2.0, kl_warmup=8)
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[weights],
    )
    trainer.fit(vae, datamodule=Digits(batch_size=200))
    assert weights.training == [2 * min(1.0, step / 8) for step in range(12)]
    assert set(weights.validation) == {2.0}


def test_a_loop_without_a_trainer_has_no_warm_up(x):
    torch.manual_seed(1)
    warm = build(kl_warmup=1000)
    torch.manual_seed(1)
    plain = build()
    torch.manual_seed(2)
    loss = warm.loss(Examples(x))[0]
    torch.manual_seed(2)
    assert torch.equal(loss, plain.loss(Examples(x))[0])


def test_free_bits_do_not_penalise_a_small_kl(x):
    """Each dimension costs max(free_bits, KL), in training only."""
    vae = build(latent_dim=3, network="linear", free_bits=0.3)
    with torch.no_grad():
        vae.encoder.head.weight.zero_()
        vae.encoder.head.bias.copy_(torch.tensor([0.5, 1.0, 2.0, 0.0, 0.0, 0.0]))  # KL: .125, .5, 2
    loss, terms = vae.loss(Examples(x))
    assert (loss + terms["reconstruction"]).item() == pytest.approx(0.3 + 0.5 + 2, abs=1e-4)
    assert terms["kl"].item() == pytest.approx(0.125 + 0.5 + 2)
    loss.backward()
    with torch.no_grad():
        loss, terms = vae.eval().loss(Examples(x))
    assert (loss + terms["reconstruction"]).item() == pytest.approx(0.125 + 0.5 + 2, abs=1e-4)


def test_free_bits_keep_latents_in_use(digits):
    """A strong beta empties the latents; with free bits each keeps some nats, and pays for more than are free."""
    batches = [Examples(digits.splits["train"].x.float() / 16)]
    kl = {}
    for free_bits in (0.0, 0.5):
        torch.manual_seed(0)
        vae = train(build(4, beta=20.0, free_bits=free_bits), batches, 400)
        kl[free_bits] = vae.kl_per_dimension(batches[0].x).mean(0)
    assert kl[0.0].max() < 1e-3
    assert 0.1 < kl[0.5].min() < kl[0.5].max() < 0.51


@pytest.mark.parametrize("arguments", [{"beta": 2.0}, {"beta": 0.5}, {"kl_warmup": 10}, {"free_bits": 0.1}], ids=str)
def test_the_importance_weighted_bound_has_no_kl_to_weigh(arguments):
    with pytest.raises(ValueError, match=r"^the importance-weighted bound has no KL term to weigh: .* leave beta at 1"):
        build(importance_samples=5, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"likelihood": "poisson"}, "unknown likelihood 'poisson': use 'bernoulli', 'gaussian' or 'categorical'"),
        ({"sigma": "learned"}, "unknown sigma 'learned': use 'learned-shared', 'learned-per-pixel' or a number"),
        ({"sigma": 0.0}, "sigma=0.0 is no standard deviation: give a positive number"),
        ({"importance_samples": 0}, "importance_samples=0: give 1 for a VAE, more for an IWAE"),
        ({"network": "conv", "data_shape": (1, 4, 6)}, ".*reads square images, and the data is 4x6: use network='mlp'"),
    ],
    ids=str,
)
def test_impossible_options_are_named(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        build(**arguments)


# The conditional model -----------------------------------------------------------------------------------------------


def test_a_conditional_model_needs_labels_in_range(x):
    vae = build(num_classes=4)
    with pytest.raises(ValueError, match=r"^a conditional VAE needs labels and the data has none: use a datamodule with"):
        vae.loss(Examples(x))
    with pytest.raises(ValueError, match=r"^label 4 is outside 0..3: set num_classes to the number of classes$"):
        vae.loss(Examples(x, torch.tensor([0, 1, 2, 3, 4, 0])))
    with pytest.raises(ValueError, match=r"^label -1 is outside 0..3"):
        vae.sample(2, torch.tensor([0, -1]))
    with pytest.raises(ValueError, match=r"^3 labels for n=2 samples: give one label each$"):
        vae.sample(2, torch.tensor([0, 1, 2]))


def test_labels_for_samples_of_an_unconditional_model_are_refused():
    message = r"^labels were given to an unconditional VAE: train it with num_classes to choose a class$"
    with pytest.raises(ValueError, match=message):
        build().sample(2, torch.tensor([0, 1]))


def test_a_conditional_model_draws_the_class_it_is_asked_for(digits):
    """Samples of a class are nearer to that class's mean picture than to any other's."""
    x, y = digits.splits["train"].x.float() / 16, digits.splits["train"].y
    vae = train(build(4, num_classes=10), [Examples(x, y)], 600)
    means = torch.stack([x[y == label].mean(0) for label in range(10)]).flatten(1)
    labels = torch.arange(10).repeat_interleave(50)
    nearest = torch.cdist(vae.sample(500, labels).flatten(1), means).argmin(1)
    assert (nearest == labels).float().mean() > 0.9
    in_turn = torch.cdist(vae.sample(500).flatten(1), means).argmin(1)
    assert (in_turn == torch.arange(500) % 10).float().mean() > 0.9


def test_the_conditional_evidence_knows_the_class(digits):
    """log p(x | y) is higher for the true label than for another; the labels go with every importance sample."""
    x, y = digits.splits["train"].x.float() / 16, digits.splits["train"].y
    vae = train(build(4, num_classes=10, likelihood="gaussian"), [Examples(x, y)], 600)
    true = vae.log_prob(x[:200], y[:200], num_samples=50)
    other = vae.log_prob(x[:200], (y[:200] + 1) % 10, num_samples=50)
    assert (true > other).float().mean() > 0.95
    one_by_one = torch.cat([vae.log_prob(x[i : i + 1], y[i : i + 1], num_samples=50) for i in range(200)])
    assert abs(one_by_one.mean() - true.mean()) < 5 * (one_by_one - true).std() / 200**0.5


# Abilities -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [None, 4])
def test_abilities_give_the_shapes_they_promise(x, num_classes):
    vae = build(num_classes=num_classes)
    labels = None if num_classes is None else torch.arange(6) % 4
    assert vae.encode(x, labels).shape == (6, 3)
    assert vae.reconstruct(x, labels).shape == x.shape
    assert vae.elbo(x, labels).shape == vae.log_prob(x, labels, 10).shape == (6,)
    assert vae.kl_per_dimension(x, labels).shape == (6, 3)
    assert vae.sample_latents(5).shape == (5, 3)
    assert vae.sample(5).shape == (5, *SHAPE)
    assert vae.interpolate(x, x.flip(0), 4, labels).shape == (6, 4, *SHAPE)
    assert vae.training


def test_the_ends_of_a_walk_are_the_reconstructions(x):
    vae = build(num_classes=4)
    labels = torch.arange(3)
    walk = vae.interpolate(x[:3], x[3:], 3, labels)
    torch.testing.assert_close(walk[:, 0], vae.reconstruct(x[:3], labels))
    torch.testing.assert_close(walk[:, 2], vae.reconstruct(x[3:], labels))
    middle = 0.5 * (vae.encode(x[:3], labels) + vae.encode(x[3:], labels))
    torch.testing.assert_close(walk[:, 1], vae.decode(middle, labels).detach())


def test_the_kl_of_each_dimension_is_the_kl_of_the_loss(x):
    vae = build()
    torch.testing.assert_close(vae.kl_per_dimension(x).sum(1).mean(), vae.loss(Examples(x))[1]["kl"].detach())


def test_samples_look_like_the_data_and_not_like_noise(trained):
    vae, x = trained
    samples = vae.sample(500)
    distance = torch.cdist(samples.flatten(1), x.flatten(1)).min(1).values.mean()
    noise = torch.cdist(torch.rand(500, 64), x.flatten(1)).min(1).values.mean()
    assert distance < 0.7 * noise


def test_latents_of_the_prior_are_standard_normal():
    z = build().sample_latents(100_000)
    assert z.mean(0).abs().max() < 5 / 100_000**0.5
    assert (z.T.cov() - torch.eye(3)).abs().max() < 8 / 100_000**0.5


def test_examples_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"^VAE was built for .* \(1, 8, 8\) and was given \(1, 9, 9\): set data_shape"):
        build().elbo(torch.rand(2, 1, 9, 9))


def test_the_test_records_the_negative_log_likelihood_and_the_latents_in_use():
    """Two of four latents are read from the picture, two are constant."""
    torch.manual_seed(0)
    vae = build(4, "linear", test_samples=200)
    with torch.no_grad():
        vae.encoder.head.weight[2:] = 0
        vae.encoder.head.weight[:2] *= 3
    data = Digits(val_size=0, batch_size=100)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    (metrics,) = trainer.test(vae, datamodule=data, verbose=False)
    x = torch.cat([batch.x for batch in data.batches("test")])
    assert metrics["test/active_units"] == 2
    with torch.no_grad():
        assert (vae.encode(x).var(0) > 0.01).tolist() == [True, True, False, False]
    assert metrics["test/kl"] == pytest.approx(vae.kl_per_dimension(x).sum(1).mean().item(), rel=1e-4)
    nll = -vae.log_prob(x, num_samples=200)
    assert metrics["test/nll"] == pytest.approx(nll.mean().item(), abs=0.2)
    assert metrics["test/nll"] < metrics["test/loss"]


def test_a_sample_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"n=0: ask for at least one sample"):
        dlkit.VAE((1, 8, 8), 4, hidden_dims=(16,)).sample(0)
