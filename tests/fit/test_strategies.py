"""Settings: each has a reason, what was asked for holds, and the numbers follow the data."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regraft.config import TRAINING_OPTIONS, FitConfig
from regraft.errors import UsageError
from regraft.fit.strategies import STRATEGIES, Facts, Settings, settings_for, settled


def facts(num_images: int = 1000, **other) -> Facts:
    return Facts(**{"num_images": num_images, "num_classes": 5, "image_size": 64, "device": "cpu", **other})


@given(st.sampled_from(STRATEGIES), st.integers(2, 3_000_000), st.sampled_from([None, 1_000, 10**6]))
def test_every_setting_is_there_with_a_reason_and_in_range(strategy, num_images, activation_bytes):
    recipe = settings_for(strategy, facts(num_images, activation_bytes=activation_bytes))
    assert set(recipe) == {field.name for field in dataclasses.fields(Settings)}
    assert all(choice.reason for choice in recipe.values())
    settings = settled(recipe)
    assert 3 <= settings.epochs <= 100
    assert 0 <= settings.warmup_epochs <= max(1, 0.1 * settings.epochs)
    assert 8 <= settings.batch_size <= 32
    assert settings.cached_views * num_images * (activation_bytes or 0) <= 2 * 2**30
    FitConfig(strategy=strategy, **{name: getattr(settings, name) for name in ("epochs", "batch_size", "lr")})


def test_the_rate_goes_with_the_root_of_the_batch():
    rates = [settings_for("lp_ft", facts(), {"batch_size": size})["lr"].value for size in (8, 32, 128)]
    assert rates == pytest.approx([2.5e-4, 5e-4, 1e-3])


def test_epochs_fall_with_the_size_of_the_data():
    epochs = [settings_for("lp_ft", facts(n))["epochs"].value for n in (50, 500, 5_000, 50_000, 500_000)]
    assert epochs == sorted(epochs, reverse=True)
    assert settings_for("scratch", facts(1000))["epochs"].value > settings_for("lp_ft", facts(1000))["epochs"].value


def test_what_was_asked_for_holds_and_says_so():
    recipe = settings_for("lp_ft", facts(), {"epochs": 4, "lr": 0.01, "flip": True})
    assert (recipe["epochs"].value, recipe["lr"].value, recipe["flip"].value) == (4, 0.01, True)
    assert {recipe[name].reason for name in ("epochs", "lr", "flip")} == {"asked for"}


def test_options_of_the_config_are_settings():
    assert set(TRAINING_OPTIONS) == {field.name for field in dataclasses.fields(Settings)} - {"strategy"}


def test_mistakes_are_told():
    with pytest.raises(UsageError, match="'linear_probe'"):
        settings_for("linear_probe", facts())
    with pytest.raises(UsageError, match=r"'epoch' is no setting of training .did you mean 'epochs'"):
        settings_for("full", facts(), {"epoch": 3})
    with pytest.raises(UsageError, match="strategy lp_ft freezes none"):
        settings_for("lp_ft", facts(), {"cached_views": 2})


def test_views_are_kept_where_they_fit_and_a_prefix_is_frozen():
    assert settings_for("light", facts(activation_bytes=40_000))["cached_views"].value == 4
    assert settings_for("light", facts(activation_bytes=40_000), {"augment": "none"})["cached_views"].value == 1
    assert settings_for("light", facts(10**6, activation_bytes=40_000))["cached_views"].value == 0
    assert settings_for("light", facts(activation_bytes=None))["cached_views"].value == 0
    assert settings_for("lp_ft", facts(activation_bytes=40_000))["cached_views"].value == 0
