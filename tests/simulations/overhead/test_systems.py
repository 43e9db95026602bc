"""Other libraries as neutral systems: what the kit says of them."""

import pytest

from secure_afl.testing import check_aggregator


@pytest.mark.long
def test_flower_sums_right_with_foretold_masks_and_crashes_without_a_client() -> None:
    pytest.importorskip("flwr", reason="the extra flower brings Flower")
    from secure_afl.simulations.overhead.peers.systems import Flower

    names = [
        "sums_are_right",
        "the_lost_are_left_out",
        "no_toy_generator_is_used",
        "every_entry_has_its_own_mask",
    ]
    report = check_aggregator(Flower, only=names, on_fail="collect", seconds=300)
    assert report.failed == ("the_lost_are_left_out", "no_toy_generator_is_used"), str(report)
    assert "KeyError" in report["the_lost_are_left_out"].note
    assert "RandomState by flwr" in report["no_toy_generator_is_used"].note


@pytest.mark.long
def test_declearn_masks_well_by_a_toy_generator_and_wraps_around_at_its_bound() -> None:
    pytest.importorskip("declearn", reason="the extra peers brings declearn")
    from secure_afl.simulations.overhead.peers.systems import Declearn

    names = [
        "the_lost_are_left_out",
        "the_bound_itself_is_summed",
        "two_sums_share_no_mask",
        "every_entry_has_its_own_mask",
        "uploads_look_uniform",
        "no_toy_generator_is_used",
    ]
    report = check_aggregator(Declearn, only=names, on_fail="collect", seconds=300)
    assert report.failed == ("the_bound_itself_is_summed", "no_toy_generator_is_used"), str(report)
    assert "a word is too small for the sum" in report["the_bound_itself_is_summed"].note
    assert "default_rng by declearn.secagg.masking._encrypt" in report["no_toy_generator_is_used"].note
    assert "8 of them uniform" in report["uploads_look_uniform"].note
