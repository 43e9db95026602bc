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
