"""Feature schemas: what a file means, and what is said about a wrong one."""

from pathlib import Path

import pytest

from fraudgate.errors import SchemaError
from fraudgate.features.currency import EXPONENTS
from fraudgate.features.schema import Amount, Attribute, FeatureSchema, Hours, Profile, Weekend, Window
from fraudgate.limits import SECOND_NS

DAY_NS = 86_400 * SECOND_NS

GOOD = """
name = "shop"
currency = "KWD"

[[feature]]
name = "amount"
kind = "amount"

[[feature]]
name = "share"
kind = "window"
entity = "merchant_id"
aggregate = "fraud_share"
width = "7d"
label_delay = "90m"
empty = 0.25
"""


def test_handbook_holds_the_published_features_in_the_published_order() -> None:
    schema = FeatureSchema.named("handbook")
    assert schema.names == (
        "TX_AMOUNT",
        "TX_DURING_WEEKEND",
        "TX_DURING_NIGHT",
        "CUSTOMER_ID_NB_TX_1DAY_WINDOW",
        "CUSTOMER_ID_AVG_AMOUNT_1DAY_WINDOW",
        "CUSTOMER_ID_NB_TX_7DAY_WINDOW",
        "CUSTOMER_ID_AVG_AMOUNT_7DAY_WINDOW",
        "CUSTOMER_ID_NB_TX_30DAY_WINDOW",
        "CUSTOMER_ID_AVG_AMOUNT_30DAY_WINDOW",
        "TERMINAL_ID_NB_TX_1DAY_WINDOW",
        "TERMINAL_ID_RISK_1DAY_WINDOW",
        "TERMINAL_ID_NB_TX_7DAY_WINDOW",
        "TERMINAL_ID_RISK_7DAY_WINDOW",
        "TERMINAL_ID_NB_TX_30DAY_WINDOW",
        "TERMINAL_ID_RISK_30DAY_WINDOW",
    )
    assert (schema.currency, schema.exponent, schema.tick_ns) == ("EUR", 2, SECOND_NS)
    assert schema.features[:3] == (Amount("TX_AMOUNT"), Weekend("TX_DURING_WEEKEND"), Hours("TX_DURING_NIGHT", 0, 6))
    assert schema.features[-1] == Window(
        "TERMINAL_ID_RISK_30DAY_WINDOW", "terminal_id", "fraud_share", 30 * DAY_NS, 7 * DAY_NS, 0.0
    )
    assert schema.entities == {"customer_id", "terminal_id"}


def test_every_kind_is_read() -> None:
    schema = FeatureSchema.parse(
        GOOD
        + """
        [[feature]]
        name = "risk"
        kind = "attribute"
        attribute = "device.risk"
        default = 1
        [[feature]]
        name = "limit"
        kind = "profile"
        entity = "card_id"
        default = -2.5
        """
    )
    assert schema.exponent == 3
    assert schema.features[1] == Window("share", "merchant_id", "fraud_share", 7 * DAY_NS, 5_400 * SECOND_NS, 0.25)
    assert schema.features[2:] == (Attribute("risk", "device.risk", 1.0), Profile("limit", "card_id", -2.5))
    assert schema.entities == {"merchant_id", "card_id"}


def test_a_feature_may_say_which_way_the_score_goes_with_it() -> None:
    assert FeatureSchema.parse(GOOD).monotone == {}
    demanding = (
        GOOD.replace('kind = "amount"', 'kind = "amount"\nmonotone = "increasing"') + 'monotone = "decreasing"\n'
    )
    schema = FeatureSchema.parse(demanding)
    assert schema.monotone == {"amount": "increasing", "share": "decreasing"}
    assert schema.features == FeatureSchema.parse(GOOD).features
    assert schema.fingerprint == FeatureSchema.parse(GOOD).fingerprint  # a demand on the model, not on its inputs
    assert hash(schema)
    with pytest.raises(SchemaError, match=r"feature 'amount': monotone 'increasin' is not one of .* did you mean"):
        FeatureSchema.parse(demanding.replace("increasing", "increasin"))


def test_the_fingerprint_follows_the_meaning_and_not_the_layout() -> None:
    fingerprint = FeatureSchema.parse(GOOD).fingerprint
    same = '# a comment\ntick = "1000ms"\n' + GOOD.replace('"7d"', '"168h"').replace("0.25", "2.5e-1")
    assert FeatureSchema.parse(same).fingerprint == fingerprint
    assert len(fingerprint) == 64
    for old, new in (("7d", "8d"), ("90m", "91m"), ("0.25", "0.5"), ("KWD", "EUR"), ("merchant_id", "card_id")):
        assert FeatureSchema.parse(GOOD.replace(old, new)).fingerprint != fingerprint
    head, first, second = GOOD.split("[[feature]]")
    swapped = "[[feature]]".join([head, second, first])
    assert FeatureSchema.parse(swapped).fingerprint != fingerprint


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "shop"', "", "key 'name' is missing"),
        ('name = "shop"', 'name = "shop"\nowner = "me"', "unknown key 'owner'"),
        ('currency = "KWD"', 'currency = "EURO"', "'EURO' is not an ISO 4217 code; did you mean 'EUR'"),
        ('currency = "KWD"', 'curency = "KWD"', "key 'currency' is missing; did you mean 'curency'"),
        ('currency = "KWD"', 'currency = "KWD"\ntick = "0s"', "tick '0s' must be a whole number of ticks"),
        ('kind = "amount"', 'kind = "amout"', "feature 'amount': kind 'amout' is not one of .*did you mean 'amount'"),
        ('kind = "amount"', 'kind = "amount"\nwidth = "1d"', "feature 'amount': unknown key 'width'"),
        ('name = "amount"', 'name = "1amount"', "must be 1..64 letters, digits and underscores"),
        ('name = "amount"', 'name = "share"', "feature 2: the name 'share' is taken already"),
        ("merchant_id", "merchant", "feature 'share': entity 'merchant' is not one of .*did you mean 'merchant_id'"),
        ("fraud_share", "fraud", "aggregate 'fraud' is not one of count, sum, mean, fraud_share"),
        ("7d", "7 days", "width '7 days' is not a duration such as \"90m\""),
        ("7d", "1500ms", "width '1500ms' must be a whole number of ticks"),
        ("7d", "99999d", "at most 10 years"),
        ("empty = 0.25", "empty = nan", "empty must be finite"),
        ("empty = 0.25", "empty = true", "empty must be a number"),
        ("label_delay", "label_dealy", "unknown key 'label_dealy'; did you mean 'label_delay'"),
        ('[[feature]]\nname = "amount"', '[feature]\nname = "amount"', "TOML|Cannot|array"),
    ],
)
def test_a_wrong_schema_is_refused_with_a_hint(old: str, new: str, said: str) -> None:
    assert old in GOOD
    with pytest.raises(SchemaError, match=said) as refused:
        FeatureSchema.parse(GOOD.replace(old, new), "shop.toml")
    assert str(refused.value).startswith("shop.toml: ")


def test_hours_and_files_are_checked(tmp_path: Path) -> None:
    hours = 'name = "s"\ncurrency = "EUR"\n[[feature]]\nname = "h"\nkind = "hours"\nfrom = 22\nto = 24\n'
    with pytest.raises(SchemaError, match=r"to must be an hour, .* not 24"):
        FeatureSchema.parse(hours)
    with pytest.raises(SchemaError, match=r"at least one \[\[feature\]\]"):
        FeatureSchema.parse('name = "s"\ncurrency = "EUR"\nfeature = []')
    with pytest.raises(SchemaError, match=r"nowhere\.toml: cannot be read"):
        FeatureSchema.load(tmp_path / "nowhere.toml")
    with pytest.raises(SchemaError, match="did you mean 'handbook'"):
        FeatureSchema.named("handbok")


def test_exponents_are_those_of_iso_4217() -> None:
    assert {code: EXPONENTS[code] for code in ("EUR", "USD", "JPY", "KWD", "CLF", "CLP", "ISK", "HUF", "TND")} == {
        "EUR": 2, "USD": 2, "JPY": 0, "KWD": 3, "CLF": 4, "CLP": 0, "ISK": 0, "HUF": 2, "TND": 3,
    }  # fmt: skip
    assert all(len(code) == 3 and code.isupper() and code.isascii() for code in EXPONENTS)
    assert len(EXPONENTS) == 17 + 141 + 7 + 2
    assert "XAU" not in EXPONENTS
