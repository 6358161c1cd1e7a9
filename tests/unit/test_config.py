"""The configuration: defaults, one TOML file, the environment over it, and what is refused with which words."""

import tomllib
from pathlib import Path

import msgspec
import pytest

from fraudgate import config, limits, sections
from fraudgate.errors import ConfigError


def load(path: Path, text: str = "", *, insecure: bool = False, **environment: str) -> config.Config:
    file = path / "fraudgate.toml"
    file.write_text(text, "utf-8")
    return config.load(file, environment, insecure)


def refused(path: Path, text: str = "", **environment: str) -> str:
    """The message of the ConfigError, which names where it comes from."""
    with pytest.raises(ConfigError) as raised:
        load(path, text, insecure=False, **environment)
    return str(raised.value)


def test_the_defaults_are_the_contract() -> None:
    settings = config.load(None, {})
    assert settings == config.Config()
    assert (settings.server.data_address, settings.server.control_address) == ("127.0.0.1:50051", "127.0.0.1:50052")
    assert settings.server.ops_address == "127.0.0.1:8080"
    assert settings.batching == sections.Batching("fixed", limits.GATE_NS, limits.QUEUE_ROWS_MAX, limits.BUDGET_NS)
    assert (settings.model.repository, settings.model.version) == ("models/repository", "")
    assert (settings.idempotency.enabled, settings.idempotency.lifetime_seconds) == (True, 3_600)
    assert settings.idempotency.entries_max == 2_000_000
    assert settings.event_time.future_max_seconds == 3_600
    assert settings.features.lateness_seconds_max == 86_400
    assert (settings.server.drain_notice_seconds, settings.server.drain_max_seconds) == (0, 10)
    assert (settings.log.dir, settings.state.dir, settings.tls.cert, settings.server.insecure) == ("", "", "", False)
    assert settings.event_now_ns() is None


def test_a_file_sets_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    settings = load(tmp_path, '[batching]\npolicy = "eager"\n[model]\nname = "simulated"\n')
    assert settings.batching == sections.Batching(policy="eager")
    assert settings.model == config.Model(name="simulated")
    assert settings.server == sections.Server()


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path) == config.Config()


def test_a_shown_configuration_can_be_loaded_again(tmp_path: Path) -> None:
    text = "\n".join(
        f"[{section}]\n" + "\n".join(f"{key} = {msgspec.json.encode(value).decode()}" for key, value in values.items())
        for section, values in msgspec.to_builtins(config.Config()).items()
        if section != "callers"  # an array of tables, and none by default
    )
    assert load(tmp_path, text) == config.Config()


DIGEST = "5e" * 32
SHOP = f"[[callers]]\nname = 'shop'\ntoken_sha256 = '{DIGEST}'\n"


def test_callers_are_an_array_of_tables(tmp_path: Path) -> None:
    text = SHOP + "[[callers]]\nname = 'batch'\ntoken_sha256 = '" + "00" * 32 + "'\npriority = 'low'\nmay = ['Score']\n"
    shop, batch = load(tmp_path, text).callers
    assert shop == sections.Caller("shop", DIGEST, "normal", 1, ("Score", "ScoreBatch", "ScoreStream"))
    assert (batch.priority, batch.may) == ("low", ("Score",))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (SHOP + SHOP, "two have the name 'shop'"),
        (
            SHOP
            + SHOP.replace("shop", "other")
            .upper()
            .replace("[[CALLERS]]\nNAME", "[[callers]]\nname")
            .replace("TOKEN_SHA256", "token_sha256"),
            "two have the token_sha256",
        ),
        (SHOP.replace(DIGEST, "secret"), "token_sha256"),
        (SHOP + "may = ['Delete']\n", "may"),
        (SHOP + "shre = 2\n", "did you mean 'share'?"),
        ("".join(SHOP.replace("shop", f"s{i}").replace(DIGEST, f"{i:064x}") for i in range(65)), "65 are over the 64"),
    ],
)
def test_callers_that_there_cannot_be(tmp_path: Path, text: str, why: str) -> None:
    assert why in refused(tmp_path, text)


def test_callers_are_not_set_from_the_environment(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[\[callers\]\] cannot be set from the environment"):
        load(tmp_path, SHOP, FRAUDGATE_CALLERS__NAME="shop")


def test_the_environment_goes_before_the_file(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        '[batching]\ngate_ns = 1000000\nqueue_rows_max = 64\n[log]\ndir = "a"\n',
        FRAUDGATE_BATCHING__GATE_NS="2000000",
        FRAUDGATE_LOG__DIR="b",
        FRAUDGATE_IDEMPOTENCY__ENABLED="false",
        FRAUDGATE_SERVER__DRAIN_NOTICE_SECONDS="1.5",
        HOME="/root",
        FRAUDGATE_DATA="/data",
    )
    assert (settings.batching.gate_ns, settings.batching.queue_rows_max) == (2_000_000, 64)
    assert (settings.log.dir, settings.idempotency.enabled, settings.server.drain_notice_seconds) == ("b", False, 1.5)


@pytest.mark.parametrize("value", ["1", "true", "True"])
def test_the_environment_says_true_in_several_ways(value: str) -> None:
    assert config.load(None, {"FRAUDGATE_SERVER__INSECURE": value}).server.insecure


@pytest.mark.parametrize("value", ["", "7", "yes please", "null"])
def test_the_environment_may_not_say_anything(value: str) -> None:
    with pytest.raises(ConfigError, match=r"the environment: .*\$\.server\.insecure"):
        config.load(None, {"FRAUDGATE_SERVER__INSECURE": value})


@pytest.mark.parametrize("value", ["", "0123", "5", "true"])
def test_a_text_of_the_environment_stays_a_text(value: str) -> None:
    assert config.load(None, {"FRAUDGATE_MODEL__VERSION": value}).model.version == value


# -- unknown names -----------------------------------------------------------------------------------------------------


def test_an_unknown_section_is_refused_with_a_hint(tmp_path: Path) -> None:
    message = refused(tmp_path, "[batch]\npolicy = 'eager'\n")
    assert message == f"{tmp_path}/fraudgate.toml: Object contains unknown field `batch`; did you mean 'batching'?"


def test_an_unknown_key_is_refused_with_a_hint(tmp_path: Path) -> None:
    message = refused(tmp_path, "[batching]\nqueue_row_max = 64\n")
    assert "unknown field `queue_row_max` - at `$.batching`; did you mean 'queue_rows_max'?" in message


def test_a_name_that_is_like_no_other_gets_the_list(tmp_path: Path) -> None:
    assert refused(tmp_path, "[zzz]\n").endswith(f"; known: {', '.join(config.Config.__struct_fields__)}")
    assert refused(tmp_path, "[tls]\nzzz = 1\n").endswith("; known: cert, key, client_ca")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("FRAUDGATE_BATCHING__GATE", "did you mean 'gate_ns'?"),
        ("FRAUDGATE_BATCHIN__GATE_NS", "did you mean 'batching'?"),
        ("FRAUDGATE_GATE_NS", "environment variable FRAUDGATE_GATE_NS: expected FRAUDGATE_SECTION__KEY"),
        ("FRAUDGATE_BATCHING__", "known: policy, gate_ns, queue_rows_max, budget_ns"),
        ("FRAUDGATE___GATE_NS", "known: server,"),
    ],
)
def test_an_unknown_variable_is_refused_with_a_hint(name: str, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        config.load(None, {name: "1"})
    assert words in str(raised.value)


# -- wrong values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[batching]\npolicy = 'lazy'\n", "Invalid enum value 'lazy' - at `$.batching.policy`"),
        ("[batching]\ngate_ns = '5 ms'\n", "Expected `int`, got `str` - at `$.batching.gate_ns`"),
        ("[batching]\ngate_ns = 1.5\n", "`$.batching.gate_ns`"),
        ("[server]\ninsecure = 1\n", "Expected `bool`, got `int` - at `$.server.insecure`"),
        ("[model]\nprovider = 'tpu'\n", "`$.model.provider`"),
        ("batching = 5\n", "`$.batching`"),
        ("[[batching]]\n", "`$.batching`"),
        ("[batching\n", "is not TOML"),
        ("[log]\ndir = 'a'\ndir = 'b'\n", "is not TOML"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    message = refused(tmp_path, text)
    assert message.startswith(f"{tmp_path}/fraudgate.toml: ")
    assert words in message


def test_a_file_value_of_the_wrong_kind_is_refused_also_beside_the_environment(tmp_path: Path) -> None:
    assert "got `str`" in refused(tmp_path, "[batching]\ngate_ns = '5'\n", FRAUDGATE_LOG__DIR="logs")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read: No such file"):
        config.load(tmp_path / "nowhere.toml", {})
    (tmp_path / "latin-1.toml").write_bytes(b"[log]\ndir = '\xe9'\n")
    with pytest.raises(ConfigError, match=r"latin-1\.toml: is not TOML"):
        config.load(tmp_path / "latin-1.toml", {})


BATCH_NS = limits.RUNNING_BATCH_NS


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[batching]\ngate_ns = 0\n", "batching.gate_ns must be at least 1"),
        ("[batching]\ngate_ns = -1\n", "batching.gate_ns must be at least 1"),
        (f"[batching]\nbudget_ns = {limits.GATE_NS + BATCH_NS - 1}\n", f"at least {limits.GATE_NS + BATCH_NS}"),
        ("[batching]\nbudget_ns = -1\n", "batching.budget_ns"),
        ("[batching]\nqueue_rows_max = 31\n", "batching.queue_rows_max must be at least 32"),
        ("[server]\nstreams_max = 0\n", "server.streams_max"),
        ("[server]\ndrain_max_seconds = 0.0\n", "server.drain_max_seconds"),
        ("[server]\ndrain_max_seconds = nan\n", "server.drain_max_seconds"),
        ("[server]\ndrain_notice_seconds = -1.0\n", "server.drain_notice_seconds"),
        ("[server]\ndrain_notice_seconds = inf\n", "server.drain_notice_seconds"),
        ("[features]\nlateness_seconds_max = -1\n", "features.lateness_seconds_max"),
        ("[idempotency]\nlifetime_seconds = 0\n", "idempotency.lifetime_seconds"),
        ("[event_time]\nfuture_max_seconds = -1\n", "event_time.future_max_seconds"),
        ("[event_time]\nfuture_max_seconds = 400_000_000\n", "event_time.future_max_seconds"),
        ("[features]\nlateness_seconds_max = 400_000_000\n", "features.lateness_seconds_max"),
        ("[server]\nstreams_max = 2_147_483_648\n", "server.streams_max"),
        ("[log]\nrotate_bytes = 0\n", "log.rotate_bytes"),
        ("[tls]\ncert = 'a.pem'\n", "[tls] needs both cert and key"),
        ("[tls]\nkey = 'a.key'\n", "[tls] needs both cert and key"),
        ("[tls]\nclient_ca = 'ca.pem'\n", "client_ca needs them too"),
        ("[event_time]\nnow = 'yesterday'\n", "event_time.now = 'yesterday'"),
        ("[event_time]\nnow = '2026-01-01T00:00:00'\n", "needs a time zone, such as Z"),
        ("[server]\nops_address = '127.0.0.1'\n", "server.ops_address"),
        ("[server]\nops_address = '127.0.0.1:http'\n", "server.ops_address"),
        ("[server]\ndata_address = '127.0.0.1:99999'\n", "server.data_address"),
        ("[server]\ncontrol_address = 'localhost'\n", "server.control_address"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    assert words in refused(tmp_path, text)


def test_values_at_their_bounds_are_taken(tmp_path: Path) -> None:
    load(tmp_path, f"[batching]\ngate_ns = 1\nqueue_rows_max = 32\nbudget_ns = {BATCH_NS + 1}\n")
    load(tmp_path, "[batching]\nbudget_ns = 0\ngate_ns = 1000000000\n")
    assert load(tmp_path, "[event_time]\nnow = '1970-01-01T00:00:01Z'\n").event_now_ns() == limits.SECOND_NS
    assert load(tmp_path, "[event_time]\nnow = '1970-01-01T02:00:00+02:00'\n").event_now_ns() == 0


# -- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "[::1]"])
def test_loopback_needs_no_tls(tmp_path: Path, host: str) -> None:
    assert config.is_loopback(f"{host}:50051")
    for plane in ("data", "control", "ops"):
        load(tmp_path, f"[server]\n{plane}_address = '{host}:50051'\n")


OPEN_HOSTS = [
    "0.0.0.0",
    "[::]",
    "",
    "10.0.0.1",
    "192.0.2.1",
    "example.org",
    "localhost.example.org",
    "127.0.0.1.example.org",
    "[::ffff:10.0.0.1]",
    "[2001:db8::1]",
]


@pytest.mark.parametrize("host", OPEN_HOSTS)
def test_another_address_needs_tls_or_a_word(tmp_path: Path, host: str) -> None:
    assert not config.is_loopback(f"{host}:50051")
    text = f"[server]\ndata_address = '{host}:50051'\n"
    assert "is not loopback: set tls.cert and tls.key, or server.insecure = true" in refused(tmp_path, text)
    load(tmp_path, text + "[tls]\ncert = 'c'\nkey = 'k'\n")
    load(tmp_path, text + "insecure = true\n")
    load(tmp_path, text, insecure=True)
    load(tmp_path, text, FRAUDGATE_SERVER__INSECURE="true")


@pytest.mark.parametrize("host", OPEN_HOSTS)
@pytest.mark.parametrize("plane", ["control", "ops"])
def test_the_inner_planes_are_loopback_only_even_with_tls(tmp_path: Path, plane: str, host: str) -> None:
    text = f"[tls]\ncert = 'c'\nkey = 'k'\n[server]\n{plane}_address = '{host}:50052'\n"
    assert f"server.{plane}_address is loopback only" in refused(tmp_path, text)
    load(tmp_path, text, insecure=True)


def test_the_readme_of_the_keys_is_toml() -> None:
    """Every default is a value that TOML has."""
    for section, values in msgspec.to_builtins(config.Config()).items():
        for key, value in values.items() if section != "callers" else ():
            assert tomllib.loads(f"{key} = {msgspec.json.encode(value).decode()}") == {key: value}, (section, key)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[ladder]\nfailures_max = 40", "ladder.failures_max = 40 is over window_runs = 32"),
        ("[ladder]\nwait_seconds_min = 9", "ladder.wait_seconds_min = 9 is over wait_seconds_max = 8"),
        ('[fallback]\npolicy = "approve_up_to"', "need each other"),
        ("[fallback]\napprove_up_to_minor = 500", "need each other"),
        ('[fallback]\npolicy = "approve"', "policy"),
    ],
)
def test_a_ladder_that_cannot_be_is_refused(tmp_path: Path, text: str, said: str) -> None:
    assert said in refused(tmp_path, text)


def test_nothing_is_approved_without_rules_unless_the_file_says_so(tmp_path: Path) -> None:
    assert load(tmp_path).fallback == sections.FallbackPolicy("review", 0)
    given = load(tmp_path, '[fallback]\npolicy = "approve_up_to"\napprove_up_to_minor = 500').fallback
    assert given == sections.FallbackPolicy("approve_up_to", 500)
