import numpy as np
import pytest
from scipy.stats import multivariate_normal

from regraft.studies.transferability import gbc, h_score, leep, log_me, principal_axes


def drawn(num, width, num_classes=3, seed=0, apart=1.0):
    rng = np.random.default_rng(seed)
    labels = np.arange(num) % num_classes
    return rng.normal(size=(num, width)) + apart * rng.normal(size=(num_classes, width))[labels], labels


@pytest.mark.parametrize(("num", "width"), [(60, 5), (300, 40), (60, 90)])
def test_log_me_is_the_published_fixed_point(num, width):
    """Algorithm 1 of the paper with whole matrices, and the evidence as a plain Gaussian density."""
    features, labels = drawn(num, width)
    slow = 0.0
    for k in range(3):
        target = (labels == k).astype(float)
        alpha, beta = 1.0, 1.0
        for _ in range(100):
            inner = alpha * np.eye(width) + beta * features.T @ features
            mean = beta * np.linalg.solve(inner, features.T @ target)
            gamma = np.trace(np.linalg.solve(inner, beta * features.T @ features))
            alpha = gamma / (mean @ mean)
            beta = (num - gamma) / ((features @ mean - target) ** 2).sum()
        cov = np.eye(num) / beta + features @ features.T / alpha
        slow += multivariate_normal(np.zeros(num), cov, allow_singular=True).logpdf(target) / num / 3
    assert log_me(features, labels, 3) == pytest.approx(slow, abs=1e-3)


@pytest.mark.parametrize(("num", "width"), [(200, 10), (30, 60)])
def test_h_score_is_the_trace(num, width):
    features, labels = drawn(num, width)
    centred = features - features.mean(axis=0)
    means = np.stack([centred[labels == k].mean(axis=0) for k in range(3)])[labels]
    slow = np.trace(np.linalg.pinv(np.cov(centred.T, bias=True), rcond=1e-10) @ np.cov(means.T, bias=True))
    assert h_score(features, labels, 3) == pytest.approx(slow, rel=1e-6)
    assert h_score(features, labels, 3, axes=principal_axes(features)) == h_score(features, labels, 3)


def test_leep_in_loops():
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(7), 40)
    labels = np.arange(40) % 3
    slow = 0.0
    for i in range(40):
        slow += np.log(
            sum(
                probs[i, z] * probs[labels == labels[i], z].sum() / probs[:, z].sum()
                for z in range(7)
            )
        ) / 40  # fmt: skip
    assert leep(probs, labels, 3) == pytest.approx(slow)
    assert leep(np.eye(3)[labels], labels, 3) == pytest.approx(0)


def test_gbc_in_loops():
    features, labels = drawn(90, 6)
    centred = features - features.mean(axis=0)
    projected = centred @ np.linalg.eigh(np.cov(centred.T))[1][:, ::-1][:, :4]
    slow = 0.0
    for a in range(3):
        for b in range(a):
            one, two = projected[labels == a], projected[labels == b]
            s, t = one.var(axis=0).mean(), two.var(axis=0).mean()
            both = (s + t) / 2
            gap = ((one.mean(axis=0) - two.mean(axis=0)) ** 2).sum()
            slow -= np.exp(-gap / (8 * both) - 2 * np.log(both / np.sqrt(s * t)))
    assert gbc(features, labels, 3, width=4) == pytest.approx(slow)


@pytest.mark.parametrize("score", [log_me, h_score, gbc])
def test_scores_rise_with_separation(score):
    values = [score(*drawn(300, 20, apart=apart), 3) for apart in (0.0, 0.3, 1.0)]
    assert values == sorted(values)


def test_a_class_without_rows_is_left_out():
    features, labels = drawn(50, 5)
    for score in (log_me, h_score, gbc):
        assert score(features, labels, 4) == pytest.approx(score(features, labels, 3))
