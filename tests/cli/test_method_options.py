"""Options of methods: what belongs together, and how files are called."""

import pytest

from csaq_cli.method_options import check_method, method_name
from csaq_runtime.errors import UsageError

NOTHING = dict.fromkeys(
    (
        *("method", "tiers", "task", "base_bits", "outlier_ratio"),
        *("bits", "protection_floor", "clique_threshold", "group_size"),
        *("layout", "rank", "w_bits", "a_bits", "mxfp4", "lora"),
        *("bpw", "size", "like", "stable", "tensor_type", "cliques"),
    )
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tiers": "16:0,8:0,4:rest"}, "--tiers belongs to --method tiers"),
        ({"method": "tiers", "base_bits": 2}, "--base-bits belongs to --method tacq"),
        (
            {"method": "tiers", "lora": True},
            "--lora belongs to --method serq, or to --layout stock",
        ),
        ({"method": "tiers", "like": "Q4_K_M"}, "--method tiers takes no --like"),
        ({"method": "tiers", "tensor_type": ("a=Q8_0",)}, "takes no --tensor-type"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        check_method(NOTHING | options, {})


def test_options_that_no_method_takes_are_refused():
    with pytest.raises(UsageError, match="takes no --dry-run"):
        check_method(NOTHING | {"method": "tiers"}, {"dry-run": True})
    with pytest.raises(UsageError, match="--layout stock takes no --dry-run"):
        check_method(NOTHING | {"layout": "stock"}, {"dry-run": True})
    check_method(NOTHING, {"dry-run": True})


def test_the_name_of_a_file_says_method_and_size():
    assert method_name(NOTHING | {"method": "tiers", "bpw": 6.25}) == "TIERS_6_25BPW"
    assert method_name(NOTHING | {"method": "tiers"}) == "TIERS"
